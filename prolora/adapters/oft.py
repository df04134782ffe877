"""OFT: blocks of a weight's outputs (LyCORIS, kohya) or inputs (PEFT, OneTrainer) are rotated.

Qiu et al. 2023, "Controlling Text-to-Image Diffusion by Orthogonal Finetuning". What the writers
do differently:

| | LyCORIS, kohya | PEFT | OneTrainer |
| --- | --- | --- | --- |
| keys | oft_blocks, rescale, alpha | oft_R.weight | oft_R.weight, oft_R.scaled_oft |
| a block | a matrix A, Q = A - A^T | the triangle of Q above the diagonal | the same |
| R | (I + Q)(I - Q)^-1 | its series, or (I - Q)(I + Q)^-1 | its series |
| merged | R^T W | W R^T | W R^T, a convolution W R |
"""

import math
from collections.abc import Mapping

import torch

from ..errors import ProLoRAError
from .adapter import Origin, alpha_of
from .boft import BoftAdapter, butterfly
from .peft_config import number_in
from .rotation import Rotation, RotationAdapter, cayley, limited, neumann, skew

_NO_CONFIG = (
    "no adapter_config.json lies beside the file: read with 5 terms of Cayley-Neumann and without "
    "COFT, as OneTrainer and PEFT's defaults have it"
)
_AS_LYCORIS = "turned as far as LyCORIS does, which is further than ComfyUI's own loader goes"
_AS_COMFYUI = "turned as far as ComfyUI does; LyCORIS would go further"
_PEFT_PREFIX = "base_model.model."
_MAX_TERMS = 100


class OftAdapter(RotationAdapter):
    family = "OFT"


def make_oft(name: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> RotationAdapter:
    """Builds an adapter from oft_blocks (with four sides that is BOFT) or oft_R.

    Raises:
        ProLoRAError: there is neither or both, the blocks are not square, or another tensor does
            not fit them.
    """
    present = [role for role in ("oft_blocks", "oft_R") if role in parts]
    if len(present) != 1:
        found = " and ".join(sorted(parts))
        origin.refuse(name, f"has {found}: one of oft_blocks and oft_R is needed, and one only")
    return (_from_triangles if present == ["oft_R"] else _from_blocks)(name, parts, origin)


def _from_blocks(name: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> RotationAdapter:
    blocks = parts["oft_blocks"]
    if blocks.ndim not in (3, 4) or blocks.shape[-1] != blocks.shape[-2] or not blocks.numel():
        origin.refuse(name, f"has oft_blocks {list(blocks.shape)} that are not square blocks")
    size = blocks.shape[-3] * blocks.shape[-1]
    rescale = parts.get("rescale")
    if rescale is not None and rescale.numel() != size:
        origin.refuse(
            name,
            f"has a rescale {list(rescale.shape)} for {size} outputs of its oft_blocks "
            f"{list(blocks.shape)}",
        )
    Q, notes = _constrained(name, skew(blocks), size, alpha_of(parts))
    adapter: type[RotationAdapter]
    if blocks.ndim == 4:
        adapter, rotations = BoftAdapter, butterfly(name, cayley(Q), 1, origin)
        if "alpha" not in parts:
            notes.append("it has no alpha, and ComfyUI's own loader leaves out a BOFT without one")
    else:
        adapter, rotations = OftAdapter, (Rotation(cayley(Q)).transposed(),)
        if rescale is not None and (rescale != 1).any():
            notes.append("its rescale counts, which ComfyUI's own loader ignores")
    return adapter(
        name=name,
        rotations=rotations,
        size=size,
        on_inputs=False,
        rescale=None if rescale is None else rescale.double().reshape(-1, 1),
        note="; ".join(notes),
    )


def _constrained(
    name: str, Q: torch.Tensor, size: int, alpha: float | None
) -> tuple[torch.Tensor, list[str]]:
    """Q within the constraint that alpha holds: one norm for all blocks.

    LyCORIS and kohya, whose names have no dots, allow a norm of alpha * m; ComfyUI's trainer,
    whose names are the model's own, and its loader allow alpha.
    """
    if alpha is None or alpha <= 0 or torch.linalg.vector_norm(Q) <= alpha:
        return Q, []
    if "." in name:
        return limited(Q, alpha), [_AS_COMFYUI]
    return limited(Q, alpha * size), [_AS_LYCORIS]


def _from_triangles(name: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> OftAdapter:
    triangles = parts["oft_R"]
    elements = triangles.shape[-1] if triangles.ndim == 2 else -1
    block = (1 + math.isqrt(1 + 8 * max(elements, 0))) // 2
    if elements != block * (block - 1) // 2 or not len(triangles):
        origin.refuse(
            name,
            f"has an oft_R {list(triangles.shape)} whose rows are not the triangles of square "
            "blocks",
        )
    count = len(triangles)
    upper = torch.zeros(count, block, block, dtype=torch.float64)
    rows, columns = torch.triu_indices(block, block, 1)
    upper[:, rows, columns] = triangles.double().cpu()
    Q = skew(upper)
    if origin.config.get("coft", False):
        eps = number_in(origin.config, "eps", 6e-5, origin)
        Q = limited(Q, eps / math.sqrt(count), dims=(1, 2))
    if "scaled_oft" in parts and elements:
        Q = Q / math.sqrt(elements)
    by_peft = bool(origin.config) or name.startswith(_PEFT_PREFIX)
    return OftAdapter(
        name=name,
        rotations=(Rotation(_peft_rotation(Q, origin)),),
        size=None if count == 1 else count * block,
        on_inputs=True,
        transposed_on_conv=not by_peft,
        note="" if origin.config else _NO_CONFIG,
    )


def _peft_rotation(Q: torch.Tensor, origin: Origin) -> torch.Tensor:
    """R - I. The series is that of the inverse of what PEFT solves for without it."""
    config = origin.config
    if not config.get("use_cayley_neumann", True):
        return cayley(-Q)
    terms = int(number_in(config, "num_cayley_neumann_terms", 5, origin))
    if not 1 <= terms <= _MAX_TERMS:
        raise ProLoRAError(
            f"{origin.file}: PEFT's configuration asks for {terms} Cayley-Neumann terms; "
            f"1 to {_MAX_TERMS} make sense. Copy or download it again."
        )
    if config and "peft_version" not in config:  # before PEFT 0.18
        return neumann(Q, [2.0] * (terms - 1))
    return neumann(Q, [2.0] * max(terms - 2, 2) + [1.0] if terms > 2 else [2.0] * (terms - 1))
