"""ComfyUI's CONDITIONING as the core's prompts, and back.

A CONDITIONING is a list of [the text's embedding, dict of what else the model takes]. Each may have
several rows, which the host pairs with the rows of the latents.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ...prolora.errors import ProLoRAError
from ...prolora.recording.network import Prompt, Value

# The embedding, by the name under which the host hands it to a model.
EMBEDDING = "cross_attn"
# The text that was encoded, in the dict of a conditioning; the host ignores a name it doesn't know.
TEXT = "prolora_text"

# A part of the picture or of the schedule -> the value with which it is the whole. None: there is
# no such value.
_PARTIAL: dict[str, Value] = {
    "area": None,
    "mask": None,
    "mask_strength": 1.0,
    "set_area_to_bounds": False,
    "strength": 1.0,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "default": None,
}


def prompts_of(conditioning: Sequence[Sequence[Any]]) -> list[Prompt]:
    """The prompts of a CONDITIONING, one for each row of each entry.

    Raises:
        ProLoRAError: it holds something that cannot be saved and replayed, or no prompt at all.
    """
    prompts = [prompt for entry in conditioning for prompt in _rows(entry[0], entry[1])]
    if not prompts:
        raise ProLoRAError("The conditioning is empty. Connect what a text encoder returns.")
    return prompts


def conditioning_of(prompts: Iterable[Prompt]) -> list[list[Any]]:
    """A CONDITIONING with one entry for each prompt."""
    entries = []
    for prompt in prompts:
        others = {name: tensor for name, tensor in prompt.tensors.items() if name != EMBEDDING}
        text = {TEXT: prompt.text} if prompt.text else {}
        entries.append([prompt.tensors.get(EMBEDDING), others | dict(prompt.values) | text])
    return entries


def _rows(embedding: torch.Tensor | None, others: dict[str, Any]) -> list[Prompt]:
    for key, value in others.items():
        _refuse(key, value)
    tensors = {key: value for key, value in others.items() if isinstance(value, torch.Tensor)}
    values = {key: value for key, value in others.items() if key not in tensors and key != TEXT}
    if embedding is not None:
        tensors[EMBEDDING] = embedding
    count = max((len(t) for t in tensors.values() if t.ndim > 1), default=1)
    return [
        Prompt({key: _row(t, row) for key, t in tensors.items()}, values, others.get(TEXT, ""))
        for row in range(count)
    ]


def _row(tensor: torch.Tensor, row: int) -> torch.Tensor:
    """A row as a batch of 1. The host repeats a shorter batch; a vector has no batch."""
    if tensor.ndim < 2:
        return tensor
    row %= len(tensor)
    return tensor[row : row + 1]


def _refuse(key: str, value: Any) -> None:
    if key in _PARTIAL and (value is None or value == _PARTIAL[key]):
        return
    plain = isinstance(value, torch.Tensor | str | int | float) or value is None
    if key not in _PARTIAL and plain:
        return
    kind = "a part of the picture or of the steps" if key in _PARTIAL else type(value).__name__
    raise ProLoRAError(
        f"The conditioning holds {key!r} ({kind}), which cannot be replayed on another model. "
        "Connect what the text encoder returns, without ControlNet, masks, areas, hooks or "
        "reference images."
    )
