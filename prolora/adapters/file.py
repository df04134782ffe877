"""A whole adapter file: its modules, sorted into what can be moved and what cannot."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ProLoRAError
from ..files import read_safetensors
from .adapter import Adapter, Make, Origin
from .lora import make_lora
from .naming import FAMILY_OF, ROLES, split_key

# What builds the adapter of a module. A family that naming.py knows and that has no row here is
# left out by name.
FAMILIES: dict[str, Make] = {
    "LoRA": make_lora,
}


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
    """

    name: str
    adapters: tuple[Adapter, ...]
    left_out: Mapping[str, str]
    unknown: tuple[str, ...]
    metadata: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def families(self) -> tuple[str, ...]:
        """The families in the file, the most common first."""
        families = Counter(adapter.family for adapter in self.adapters)
        return tuple(family for family, _ in families.most_common())

    @property
    def module_names(self) -> tuple[str, ...]:
        return (*(adapter.name for adapter in self.adapters), *self.left_out)


def read_adapter_file(path: Path) -> AdapterFile:
    """Reads a LoRA file.

    Raises:
        ProLoRAError: it is missing, damaged, no safetensors file, or holds no adapter.
    """
    tensors, metadata = read_safetensors(path)
    return parse_adapter_file(tensors, path.name, metadata)


def parse_adapter_file(
    tensors: Mapping[str, torch.Tensor], name: str, metadata: Mapping[str, str] | None = None
) -> AdapterFile:
    """Sorts the tensors of an adapter by module; see AdapterFile.

    Raises:
        ProLoRAError: there is no adapter in it, or a module's tensors contradict each other.
    """
    origin = Origin(name)
    modules, unknown = _by_module(tensors, origin)
    adapters: list[Adapter] = []
    left_out: dict[str, str] = {}
    for module, parts in modules.items():
        families = {FAMILY_OF[role] for role in parts if role in FAMILY_OF}
        if len(families) > 1:
            origin.refuse(module, f"has tensors of {' and '.join(sorted(families))}")
        if not families:  # an alpha alone says nothing
            unknown += [f"{module}: {role}" for role in parts]
            continue
        family = families.pop()
        if family in FAMILIES:
            adapters.append(FAMILIES[family](module, parts, origin))
        else:
            left_out[module] = f"{family} is not moved"
    if not adapters and not left_out:
        raise ProLoRAError(
            f"{name} is no LoRA: none of its {len(tensors)} keys is one that a LoRA has"
            + (f" (the first is {unknown[0]})" if unknown else "")
            + ". Is it a checkpoint, a VAE or an embedding? Choose a LoRA file."
        )
    return AdapterFile(name, tuple(adapters), left_out, tuple(unknown), metadata or {})


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
        _check(module, role, tensor, origin)
        modules[module][role] = tensor
    return modules, unknown


def _check(module: str, role: str, tensor: torch.Tensor, origin: Origin) -> None:
    if role in ("alpha", "reshape_weight"):
        if role == "alpha" and tensor.numel() != 1:
            origin.refuse(module, f"has an alpha that is not one number but {list(tensor.shape)}")
    elif not tensor.is_floating_point():
        raise ProLoRAError(
            f"{origin.file}: the LoRA {role} of the module {module} is stored as {tensor.dtype}. "
            "Use an fp16, bf16 or fp32 version of this LoRA."
        )
    if not torch.isfinite(tensor.float()).all():
        raise ProLoRAError(
            f"{origin.file}: the LoRA {role} of the module {module}, shape {list(tensor.shape)}, "
            "holds NaN or infinity: its training broke down or the file is damaged. Use another "
            "copy, or an earlier epoch of it."
        )
