"""A whole adapter file: its modules, sorted into what can be moved and what cannot."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from ..errors import ProLoRAError
from ..files.safetensors import read_safetensors
from ..lazy import lazy
from .accelerators import accelerator_of
from .adapter import Adapter, Make, Origin
from .boft import make_boft
from .difference import VectorPatch, make_full_difference, make_vector_patches, split_vectors
from .dora import DoraAdapter, refuse_lone_magnitude, with_magnitude
from .foura import make_foura
from .glora import make_glora
from .loha import make_loha
from .lokr import make_lokr
from .lora import make_lora
from .oft import make_oft
from .peft_config import WEIGHTS_NAME, PeftAlphas, peft_alphas, read_peft_config
from .peft_folder import refuse_without_weights, weights_in
from .suffixes import (
    BUNDLED,
    COMBINED,
    FAMILY_OF,
    MAGNITUDES,
    REASONS,
    ROLES,
    split_key,
    split_unknown,
)
from .tools import UNREADABLE, kind_of, refuse_file, tool_of

# What builds the adapter of a module. A family that suffixes.py knows and that has no row here is
# left out by name.
MAKERS: dict[str, Make] = {
    "LoRA": make_lora,
    "LoHa": make_loha,
    "LoKr": make_lokr,
    "GLoRA": make_glora,
    "OFT": make_oft,
    "BOFT": make_boft,
    "FouRA": make_foura,
    "full difference": make_full_difference,
}

# What PEFT and diffusers call every adapter.
_LIBRARY_NAMES = (WEIGHTS_NAME, "pytorch_lora_weights.safetensors")
# Roles whose tensors are numbers or marks of any type, not factors.
_NUMBERS = (
    *("alpha", "reshape_weight", "foura_transform", "lokr_dim"),
    *("scaled_oft", "oft_block_size", "oft_block_share", "oft_coft", "coft_eps"),
    "scaled_oft_metadata",
)
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)

# What a file holds for one module.
Part = Adapter | VectorPatch


@dataclass(frozen=True)
class AdapterFile:
    """What a LoRA file holds.

    Attributes:
        name: the file's name, for messages.
        adapters: the modules that can be moved.
        left_out: module name -> why, for modules that are known but cannot be moved.
        unknown: keys that belong to no family known here.
        metadata: the header's metadata.
        notes: what the user must know about how the file was read, a line each.
        differences: what has no subspaces: norms, biases and weights that are set.
        tool: what seems to have written it, or "".
        config: PEFT's configuration beside it; empty for every other file.
        dtype: of most of it.
    """

    name: str
    adapters: tuple[Adapter, ...]
    left_out: Mapping[str, str]
    unknown: tuple[str, ...]
    metadata: Mapping[str, str]
    notes: tuple[str, ...] = ()
    vector_patches: tuple[VectorPatch, ...] = ()
    tool: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32

    @property
    def accelerator(self) -> str:
        """The kind of accelerator that it is, by its names, or ""."""
        return accelerator_of(self.name, self.metadata)

    @property
    def contents(self) -> tuple[Part, ...]:
        """What a file of the same holds; see lora_state_dict."""
        return (*self.adapters, *self.vector_patches)

    @property
    def families(self) -> tuple[str, ...]:
        """The families in the file, the most common first."""
        families = Counter(adapter.family for adapter in self.adapters)
        return tuple(family for family, _ in families.most_common())

    @lazy
    def digest(self) -> str:
        """A SHA-256 of its tensors, whatever their modules are called."""
        parts = (tensor for part in self.contents for tensor in _tensors_of(part).values())
        return sha256("".join(sorted(map(_digest, parts))).encode()).hexdigest()

    @property
    def module_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*(part.name for part in self.contents), *self.left_out)))


def read_adapter_file(
    path: Path, hold: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> AdapterFile:
    """Reads a LoRA file, and PEFT's configuration beside it; or a folder of PEFT with both.

    Args:
        hold: where its tensors may stay.

    Raises:
        ProLoRAError: it is missing, damaged, no safetensors file, or holds no adapter; or the
            configuration is damaged or of another kind.
    """
    refuse_without_weights(path)
    path = weights_in(path)
    tensors, metadata = read_safetensors(path, hold)
    return parse_adapter_file(tensors, name_of(path), metadata, read_peft_config(path))


def name_of(path: Path) -> str:
    """What to call a file: by its folder as well, where a library gives all of them one name."""
    return (
        f"{path.absolute().parent.name}/{path.name}" if path.name in _LIBRARY_NAMES else path.name
    )


def parse_adapter_file(
    tensors: Mapping[str, torch.Tensor],
    name: str,
    metadata: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> AdapterFile:
    """Sorts the tensors of an adapter by module; see AdapterFile.

    Args:
        config: see read_peft_config.

    Raises:
        ProLoRAError: there is no adapter in it, or a module's tensors contradict each other.
    """
    metadata = metadata or {}
    origin = Origin(name, config or {})
    alphas = peft_alphas(origin, metadata)
    bundled = [key for key in tensors if key.startswith(BUNDLED)]
    own = {key: tensor for key, tensor in tensors.items() if not key.startswith(BUNDLED)}
    modules, unknown = _by_module(own, origin)
    tool = tool_of(own, metadata)
    if kind_of(unknown, UNREADABLE) or not modules:
        refuse_file(name, own, unknown, tool)
    strange = _strange(unknown, modules)
    explained = {key for found in strange.values() for key in found.values()}
    unknown = [key for key in unknown if key not in explained]
    read = {
        module: _read(module, parts, strange.get(module, ()), alphas, origin)
        for module, parts in modules.items()
    }
    unknown += [f"{module}: {role}" for module, found in read.items() for role in found.unknown]
    if 2 * len(unknown) > len(own):
        refuse_file(name, own, unknown, tool)
    notes = [_bundled(bundled)] if bundled else []
    notes += [alphas.note] if any(found.has_peft_alpha for found in read.values()) else []
    return AdapterFile(
        name=name,
        adapters=tuple(found.adapter for found in read.values() if found.adapter is not None),
        left_out={module: found.left_out for module, found in read.items() if found.left_out},
        unknown=tuple(unknown),
        metadata=metadata,
        notes=tuple(notes),
        vector_patches=tuple(part for found in read.values() for part in found.vector_patches),
        tool=tool,
        config=origin.config,
        dtype=_dtype_of(own.values()),
    )


def _dtype_of(tensors: Iterable[torch.Tensor]) -> torch.dtype:
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.nbytes
    return sizes.most_common(1)[0][0]


@dataclass(frozen=True)
class _Read:
    """What one module's tensors are.

    Attributes:
        left_out: why something of it cannot be moved, or "".
        unknown: roles that mean nothing alone.
        has_peft_alpha: whether its scale comes from PEFT's configuration.
    """

    adapter: Adapter | None = None
    vector_patches: tuple[VectorPatch, ...] = ()
    left_out: str = ""
    unknown: tuple[str, ...] = ()
    has_peft_alpha: bool = False


def _read(
    module: str,
    tensors: Mapping[str, torch.Tensor],
    strange: Collection[str],
    alphas: PeftAlphas,
    origin: Origin,
) -> _Read:
    """What one module is.

    Args:
        tensors: by role.
        strange: its tensors that are an adapter's by their look, but of no known kind.
    """
    vectors, parts = split_vectors(tensors)
    left_out = "; ".join(REASONS[role] for role in parts if role in REASONS)
    parts = {role: tensor for role, tensor in parts.items() if role not in REASONS}
    parts |= {
        role: origin.countable(module, role, parts[role]) for role in _NUMBERS if role in parts
    }
    _check(module, vectors, origin)
    families = sorted({FAMILY_OF[role] for role in parts if role in FAMILY_OF})
    family = families[0] if len(families) == 1 else COMBINED.get(frozenset(families), "")
    if families and not family:
        origin.refuse(module, f"has tensors of {' and '.join(families)}")
    if not family:
        refuse_lone_magnitude(module, parts, origin)
        differences = make_vector_patches(module, vectors, parts, origin)
        return _Read(None, tuple(differences), left_out, () if vectors else tuple(parts))
    make = MAKERS.get(family)
    if make is None or strange:
        differences = make_vector_patches(module, vectors, parts, origin) if vectors else []
        return _Read(None, tuple(differences), _unread(family, strange))
    _check(module, parts, origin)
    alpha = None if "alpha" in parts else alphas.of(module, parts, origin)
    if alpha is not None:
        parts["alpha"] = torch.tensor(alpha, dtype=torch.float64)
    differences = make_vector_patches(module, vectors, parts, origin)
    made = make(module, parts, origin)
    # Every family is a dataclass, which a protocol cannot say.
    direction = replace(made, parts=_without_magnitude(parts))  # type: ignore[type-var]
    adapter = with_magnitude(direction, parts, origin)
    # ComfyUI pads a weight for a LoRA alone.
    unknown = ("reshape_weight",) if "reshape_weight" in parts and not adapter.reshape else ()
    return _Read(adapter, tuple(differences), left_out, unknown, alpha is not None)


def _tensors_of(part: Part) -> Mapping[str, torch.Tensor]:
    """What the file has of a part, also of a family that is read and not written."""
    if isinstance(part, DoraAdapter):
        return {**_tensors_of(part.direction), "dora_scale": part.magnitude}
    own: Mapping[str, torch.Tensor] = getattr(part, "parts", {})
    return own or part.tensors()


def _digest(tensor: torch.Tensor) -> str:
    values = tensor.detach().cpu().contiguous()
    head = f"{values.dtype} {list(values.shape)} ".encode()
    return sha256(head + values.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _without_magnitude(parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {role: part for role, part in parts.items() if role not in MAGNITUDES.values()}


def _unread(family: str, strange: Collection[str]) -> str:
    """Why a module of a known family is left out."""
    if not strange:
        return f"{family} is not moved"
    found = " and ".join(sorted(strange))
    return f"{family} with {found} is of a form that ProLoRA does not know, and is not moved"


def _bundled(keys: list[str]) -> str:
    return (
        f"{len(keys)} tensors are embeddings that OneTrainer bundled with the LoRA "
        f"({BUNDLED}*) and are left out: they belong to the text encoder's words. Keep the "
        "original file in ComfyUI's embeddings folder, where it is read as an embedding."
    )


def _by_module(
    tensors: Mapping[str, torch.Tensor], origin: Origin
) -> tuple[dict[str, dict[str, torch.Tensor]], list[str]]:
    """Module -> role -> tensor, and the keys that no table knows."""
    modules: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    unknown = []
    for key, tensor in tensors.items():
        split = split_key(key)
        if split is None:
            unknown.append(key)
            continue
        module, suffix = split
        role = ROLES[suffix]
        if role in modules[module]:
            raise ProLoRAError(
                f"{origin.file} has two LoRA {role} tensors for the module {module}, in two "
                "spellings. It was merged badly: export it again."
            )
        modules[module][role] = tensor
    return modules, unknown


def _strange(
    unknown: Iterable[str], modules: Mapping[str, Mapping[str, torch.Tensor]]
) -> dict[str, dict[str, str]]:
    """Module -> tensor -> key, for unknown keys that are of a known module's adapter."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for key in unknown:
        module, tensor = split_unknown(key) or ("", "")
        if any(role in FAMILY_OF for role in modules.get(module, ())):
            found[module][tensor] = key
    return found


def _check(module: str, tensors: Mapping[str, torch.Tensor], origin: Origin) -> None:
    """Refuses tensors that are no factors; numbers are looked at where they count."""
    for role, tensor in tensors.items():
        if role in _NUMBERS:
            continue
        if tensor.dtype not in _DTYPES:
            raise ProLoRAError(
                f"{origin.file}: the LoRA {role} of the module {module} is stored as "
                f"{tensor.dtype}. Use an fp16, bf16 or fp32 version of this LoRA."
            )
        if tensor.ndim == 0:
            origin.refuse(module, f"has a single number as its {role}")
        if tensor.numel() == 0:
            origin.refuse(module, f"has an empty {role} {list(tensor.shape)}")
        origin.check_finite(module, role, tensor)
