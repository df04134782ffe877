"""A whole adapter file: its modules, sorted into what can be moved and what cannot."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ProLoRAError
from ..files import read_safetensors
from .lora import LoraAdapter, make_lora
from .naming import LORA_SUFFIXES, OTHER_SUFFIXES, split_key


@dataclass(frozen=True)
class AdapterFile:
    """What a LoRA file holds.

    Attributes:
        name: the file's name, for messages.
        adapters: the modules that can be moved.
        unsupported: module name -> family, for modules of a family that cannot be moved yet.
        unknown: keys that belong to no family known here.
        metadata: the header's metadata.
    """

    name: str
    adapters: tuple[LoraAdapter, ...]
    unsupported: Mapping[str, str]
    unknown: tuple[str, ...]
    metadata: Mapping[str, str]

    @property
    def families(self) -> tuple[str, ...]:
        """The families in the file, the most common first."""
        families = Counter(self.unsupported.values())
        families["LoRA"] = len(self.adapters)
        return tuple(family for family, count in families.most_common() if count)

    @property
    def module_names(self) -> tuple[str, ...]:
        return (*(adapter.name for adapter in self.adapters), *self.unsupported)


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
    modules: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    unsupported: dict[str, str] = {}
    unknown = []
    for key, tensor in tensors.items():
        split = split_key(key)
        if split is None:
            unknown.append(key)
            continue
        module, suffix = split
        if suffix in OTHER_SUFFIXES:
            unsupported[module] = OTHER_SUFFIXES[suffix]
        else:
            role = LORA_SUFFIXES[suffix]
            if role in modules[module]:
                raise ProLoRAError(
                    f"{name} has two LoRA {role} tensors for the module {module}, in two "
                    "spellings. It was merged badly: export it again."
                )
            modules[module][role] = tensor
    adapters = []
    for module, parts in modules.items():
        if module in unsupported:
            continue
        if parts.keys() == {"alpha"}:  # says nothing without the tensors it would scale
            unknown.append(f"{module}.alpha")
        else:
            adapters.append(make_lora(module, parts, name))
    if not adapters and not unsupported:
        raise ProLoRAError(
            f"{name} is no LoRA: none of its {len(tensors)} keys is one that a LoRA has"
            + (f" (the first is {unknown[0]})" if unknown else "")
            + ". Is it a checkpoint, a VAE or an embedding? Choose a LoRA file."
        )
    return AdapterFile(name, tuple(adapters), unsupported, tuple(unknown), metadata or {})
