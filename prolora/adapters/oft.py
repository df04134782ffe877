"""OFT: blocks of a weight's outputs (LyCORIS, kohya) or inputs (PEFT, OneTrainer) are rotated.

Qiu et al. 2023, "Controlling Text-to-Image Diffusion by Orthogonal Finetuning". What the writers do
differently:

| | LyCORIS, kohya | PEFT | OneTrainer |
| --- | --- | --- | --- |
| keys | oft_blocks, rescale, alpha | oft_R.weight | oft_R.weight, oft_R.scaled_oft |
| a block | a matrix A, Q = A - A^T | the triangle of Q above the diagonal | the same |
| scaled | | | Q / (2 sqrt(b - 1)) for blocks of side b |
| R | (I + Q)(I - Q)^-1 | its series, or (I - Q)(I + Q)^-1 | its series |
| merged | R^T W | W R^T | W R^T, a convolution W R |

kohya's trainer for Flux (sd-scripts, networks/oft_flux.py) has an OFT for each part of a fused
weight, oft_blocks.0 to .3. AkaneTendo25's musubi-tuner is OneTrainer's with PEFT's COFT, which it
notes beside: *_metadata.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from ..errors import ProLoRAError
from .adapter import Origin
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
# What kohya's trainer calls the modules of a UNet in an OFT, and in a LoRA, which others read too.
_KOHYA_PREFIX, _LORA_PREFIX = "oft_unet_", "lora_unet_"
_OF_ONETRAINER = ("scaled_oft", "scaled_oft_metadata")
_COFT_EPS = 6e-5  # PEFT's default
_MAX_TERMS = 100


class OftAdapter(RotationAdapter):
    family = "OFT"


def make_oft(name: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> RotationAdapter:
    """Builds an adapter from oft_blocks (with four sides that is BOFT), from the oft_blocks.0 and
    on of a fused weight's parts, or from oft_R. It goes by the name that a LoRA would have.

    Raises:
        ProLoRAError: there is none of them or more than one, the blocks are not square, or another
            tensor does not fit them.
    """
    present = {role.partition(".")[0] for role in parts} & {"oft_blocks", "oft_R"}
    numbered = [role for role in sorted(parts) if role.startswith("oft_blocks.")]
    if len(present) != 1 or (numbered and "oft_blocks" in parts):
        found = " and ".join(sorted(parts))
        origin.refuse(name, f"has {found}: one of oft_blocks and oft_R is needed, and one only")
    adapter: RotationAdapter
    if numbered:
        adapter = _from_numbered_blocks(name, parts, numbered, origin)
    else:
        make = _from_triangles if "oft_R" in present else _from_blocks
        adapter = make(name, parts, origin)
    if not name.startswith(_KOHYA_PREFIX):
        return adapter
    return replace(adapter, name=_LORA_PREFIX + name.removeprefix(_KOHYA_PREFIX))


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
    Q, notes = _constrained(name, skew(blocks), parts, origin)
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


def _from_numbered_blocks(
    name: str, parts: Mapping[str, torch.Tensor], roles: list[str], origin: Origin
) -> OftAdapter:
    """The parts of a fused weight in the order of its rows, each with its own constraint."""
    if roles != [f"oft_blocks.{part}" for part in range(len(roles))]:
        origin.refuse(name, f"has {' and '.join(roles)}: a part before or between them is missing")
    rotations, notes, start = [], [], 0
    for role in roles:
        blocks = parts[role]
        if blocks.ndim != 3 or blocks.shape[-1] != blocks.shape[-2]:
            origin.refuse(name, f"has {role} {list(blocks.shape)} that are not square blocks")
        Q, told = _constrained(name, skew(blocks), parts, origin)
        rows = torch.arange(start, start + blocks.shape[0] * blocks.shape[1])
        rotations.append(Rotation(cayley(Q), rows).transposed())
        notes += told
        start += len(rows)
    return OftAdapter(
        name=name,
        rotations=tuple(rotations),
        size=start,
        on_inputs=False,
        note="; ".join(dict.fromkeys(notes)),
    )


def _constrained(
    name: str, Q: torch.Tensor, parts: Mapping[str, torch.Tensor], origin: Origin
) -> tuple[torch.Tensor, list[str]]:
    """Q within the constraint that alpha holds: one norm for all blocks.

    kohya and LyCORIS, whose names have no dots, allow a norm of alpha * m; ComfyUI's trainer,
    whose names are the model's own, and its loader allow alpha. An alpha of 0 is no constraint,
    but for kohya, with whom nothing turns then. Nor does an alpha count that Q does not reach.
    """
    if "alpha" not in parts or (torch.linalg.vector_norm(Q) <= parts["alpha"].real).all():
        return Q, []
    alpha = origin.number(name, "alpha", parts["alpha"])
    outputs = Q.shape[-3] * Q.shape[-1]
    if name.startswith(_KOHYA_PREFIX):
        return limited(Q, max(alpha, 0) * outputs), []
    if alpha <= 0:
        return Q, []
    if "." in name:
        return limited(Q, alpha), [_AS_COMFYUI]
    return limited(Q, alpha * outputs), [_AS_LYCORIS]


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
    Q = _projected(name, skew(upper), parts, origin)
    if "scaled_oft" in parts and block > 1:
        Q = Q / (2 * math.sqrt(block - 1))
    by_peft = bool(origin.config) or name.startswith(_PEFT_PREFIX)
    told = bool(origin.config) or any(role in parts for role in _OF_ONETRAINER)
    return OftAdapter(
        name=name,
        rotations=(Rotation(_peft_rotation(Q, origin)),),
        size=None if count == 1 else count * block,
        on_inputs=True,
        transposed_on_conv=not by_peft,
        note="" if told else _NO_CONFIG,
    )


def _projected(
    name: str, Q: torch.Tensor, parts: Mapping[str, torch.Tensor], origin: Origin
) -> torch.Tensor:
    """Q of COFT, no block of which has a norm above eps / sqrt(their number); else Q itself."""
    if origin.config.get("coft", False):
        eps = number_in(origin.config, "eps", _COFT_EPS, origin)
    elif "oft_coft" in parts and origin.number(name, "oft_coft", parts["oft_coft"]):
        given = parts.get("coft_eps")
        eps = _COFT_EPS if given is None else origin.number(name, "coft_eps", given)
    else:
        return Q
    return limited(Q, eps / math.sqrt(len(Q)), dims=(1, 2))


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
