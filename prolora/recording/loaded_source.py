"""The source where it is loaded: whether it is the one, and the LoRA as its loader takes it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
# How far a weight of the same model may be off, relative. A plain one is compared with the file's,
# rounded to its type; in fp8 if one of them is, which a host may have loaded as fp16. fp8 is often
# made of bf16, and two roundings are off by up to 0.023; a drift of 0.03 is off by 0.044 or more
# in fp8. A quantised weight is compared as it is: 8 bits lose 0.03 and 4 bits 0.1.
_OFF, _OFF_FP8, _OFF_QUANTISED = 0.01, 0.03, 0.13
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)

# The key of a loaded weight -> the floating-point type that it is kept in; None: it is quantised.
KeptAs = Callable[[str], torch.dtype | None]


@dataclass(frozen=True)
class _Difference:
    """Of a loaded weight.

    Attributes:
        off: ||loaded - source|| / ||source||; infinite where there is no such weight.
        limit: what it may be for the same weight.
    """

    off: float
    limit: float


def check_source(lora: ResolvedLora, loaded: Model, kept_as: KeptAs) -> None:
    """Refuses a loaded model that is not the checkpoint that the LoRA was trained on.

    Args:
        kept_as: how the loaded model keeps its weights.

    Raises:
        ProLoRAError: it is another, or the source is itself a recording.
    """
    if is_outline(lora.source):
        raise ProLoRAError(
            "The source of this LoRA is a recording, which holds no weights, so it cannot be "
            "recorded from. Choose the checkpoint that the LoRA was trained on in Load Source LoRA."
        )
    for module in _some(lora):
        found = _difference(module, lora.source, loaded, kept_as)
        if not found.off <= found.limit:
            raise ProLoRAError(
                f"The MODEL {loaded.name} is not the source {lora.source.name}: its weight of "
                f"{module.adapter.name} {_told(found.off)}. Connect the MODEL of the checkpoint "
                "that the LoRA was trained on, in 4 bits or more, and choose the same in Load "
                "Source LoRA."
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


def _difference(
    module: ResolvedAdapter, source: Model, loaded: Model, kept_as: KeptAs
) -> _Difference:
    ref = loaded.resolve(module.adapter.name)
    if ref is None or loaded.shape(ref) != source.shape(module.ref):
        return _Difference(torch.inf, 0.0)
    kept = kept_as(ref.key)
    cpu = torch.device("cpu")
    wanted = source.weight(module.ref, cpu, torch.float32)
    found = loaded.weight(ref, cpu, torch.float32)
    size = float(torch.linalg.vector_norm(wanted))
    if kept is not None:
        kept = _fp8_of(found) or _fp8_of(wanted) or kept
        wanted, found = (weight.to(kept).float() for weight in (wanted, found))
    off = float(torch.linalg.vector_norm(found - wanted)) / (size or 1.0)
    return _Difference(off, _limit(kept))


def _fp8_of(weight: torch.Tensor) -> torch.dtype | None:
    """The fp8 type that holds all of its values as they are."""
    return next((fp8 for fp8 in _FP8 if torch.equal(weight.to(fp8).float(), weight)), None)


def _limit(kept: torch.dtype | None) -> float:
    if kept is None:
        return _OFF_QUANTISED
    return _OFF_FP8 if kept.itemsize == 1 else _OFF


def _told(off: float) -> str:
    return "is not there, or of another shape" if off == torch.inf else f"differs by {off:.0%}"


def _loadable(module: ResolvedAdapter, source: Model) -> Part:
    adapter = module.adapter
    if isinstance(adapter, DoraAdapter) or adapter.kept_for(module.shape) is not None:
        return adapter
    weight = source.weight(module.ref, torch.device("cpu"), torch.float32)
    delta = adapter.update(weight).delta
    return FullDifference(adapter.name, delta.reshape(module.shape))
