"""The source where it is loaded: whether it is the one, and the LoRA as its loader takes it."""

from collections.abc import Iterator

import torch

from ..adapters import FullDifference, Part, lora_state_dict
from ..adapters.dora import DoraAdapter
from ..errors import ProLoRAError
from ..models.model import Model
from ..models.module_names import is_text_encoder
from ..models.outline import is_outline
from ..naming.output_names import rename
from ..pairing.module_pairs import ResolvedAdapter
from ..transfer.resolve import ResolvedLora

_COMPARED = 6  # weights
_OFF = 0.05  # how far a weight of the same model may be off, relative: fp8 rounds by 0.03


def check_source(lora: ResolvedLora, loaded: Model) -> None:
    """Refuses a loaded model that is not the checkpoint that the LoRA was trained on.

    Raises:
        ProLoRAError: it is another, or the source is itself a recording.
    """
    if is_outline(lora.source):
        raise ProLoRAError(
            "The source of this LoRA is a recording, which holds no weights, so it cannot be "
            "recorded from. Choose the checkpoint that the LoRA was trained on in Load Source LoRA."
        )
    for module in _some(lora):
        off = _off(module, lora.source, loaded)
        if off > _OFF:
            raise ProLoRAError(
                f"The MODEL {loaded.name} is not the source {lora.source.name}: its weight of "
                f"{module.adapter.name} {_told(off)}. Connect the MODEL of the checkpoint that the "
                "LoRA was trained on, in fp8 or more, and choose the same in Load Source LoRA."
            )


def loadable(lora: ResolvedLora, loaded: Model) -> dict[str, torch.Tensor]:
    """A file's tensors for the loader of the host, of the diffusion model's modules alone.

    What no loader reads as the LoRA's trainer does (an OFT) is the difference that it makes.

    Args:
        loaded: the source, by whose names the modules are called.
    """
    parts: list[Part] = [_loadable(module, lora.source) for module in lora.adapters]
    parts += [vector.patch for vector in lora.vectors]
    names = [part for part in parts if not is_text_encoder(part.name)]
    return lora_state_dict(rename(names, loaded.key_map, loaded.architecture, "comfyui").adapters)


def _some(lora: ResolvedLora) -> Iterator[ResolvedAdapter]:
    found = [m for m in lora.adapters if len(m.shape) > 1 and not is_text_encoder(m.adapter.name)]
    count = min(len(found), _COMPARED)
    yield from (found[index * len(found) // count] for index in range(count))


def _off(module: ResolvedAdapter, source: Model, loaded: Model) -> float:
    """||loaded - source|| / ||source||; infinite where there is no such weight."""
    ref = loaded.resolve(module.adapter.name)
    if ref is None or loaded.shape(ref) != source.shape(module.ref):
        return torch.inf
    cpu = torch.device("cpu")
    wanted = source.weight(module.ref, cpu, torch.float32)
    found = loaded.weight(ref, cpu, torch.float32)
    size = float(torch.linalg.vector_norm(wanted))
    return float(torch.linalg.vector_norm(found - wanted)) / (size or 1.0)


def _told(off: float) -> str:
    return "is not there, or of another shape" if off == torch.inf else f"differs by {off:.0%}"


def _loadable(module: ResolvedAdapter, source: Model) -> Part:
    adapter = module.adapter
    if isinstance(adapter, DoraAdapter) or adapter.kept_for(module.shape) is not None:
        return adapter
    weight = source.weight(module.ref, torch.device("cpu"), torch.float32)
    delta = adapter.update(weight).delta
    return FullDifference(adapter.name, delta.reshape(module.shape))
