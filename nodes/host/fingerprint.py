"""What a MODEL or CLIP of the graph is, as a digest of its content: to know it again."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from typing import Any

import torch

from ...prolora.algebra.precision import as_bytes
from ...prolora.models.ggml import is_ggml
from ...prolora.models.model import Model
from ...prolora.progress import Progress, silent
from .loaded_model import PatchedModelWeights

# Bytes that a thread takes at a time: so much of a weight on the GPU is copied for it.
_PIECE = 2**26
# Where nodes leave what they do to a MODEL, other than patches of weights.
_CONDUCT = (
    *("object_patches", "model_options", "attachments", "injections", "wrappers", "callbacks"),
    *("hook_patches", "additional_models"),
)
# What 0.33.0 leaves there of LoRAs, which do not count.
_OF_LORAS = (("attachments", "lora_metadata"), ("injections", "bypass_lora"))


class Untold(Exception):
    """Something in a MODEL has no content that could be compared, such as a function."""


def fingerprint(target: Model, model: Any, clip: Any | None, progress: Progress = silent) -> str:
    """The SHA-256 of all base weights as they are kept, of their names and of what LoRAs call them.

    Every byte is read. A core does about 1.8 GB/s where the processor has SHA instructions, and
    less than half of it where it has none; weights on a GPU are copied for it, piece by piece.

    Args:
        target: what model_from_graph made of them.
        model, clip: the host's; clip may be None. LoRAs that patch them do not count.

    Raises:
        Exception: whatever `progress` raises.
    """
    weights = PatchedModelWeights([model] if clip is None else [model, clip.patcher])
    found = sha256(target.architecture.encode())
    for name, place in sorted(target.key_map.items()):
        found.update(f"{name} {place!r}\n".encode())

    def pieces() -> Iterator[Callable[[], bytes]]:
        for done, key in enumerate(keys):
            progress(done, len(keys), f"the model, to know it again: {key}")
            yield from _pieces(weights, key)

    keys = sorted(weights)
    for digest in _in_parallel(pieces()):
        found.update(digest)
    return found.hexdigest()


def conduct(model: Any, clip: Any | None) -> str:
    """What else was done to a MODEL and CLIP that tells how they run, as a text to compare.

    Raises:
        Untold: another node put something there whose content cannot be told.
    """
    told = _conduct_of(model)
    if clip is not None:
        told += _conduct_of(clip.patcher)
        told += [_told(getattr(clip, kind, None)) for kind in ("layer_idx", "tokenizer_options")]
    return repr(told)


def _conduct_of(patcher: Any) -> list[Any]:
    found = {kind: getattr(patcher, kind, None) or {} for kind in _CONDUCT}
    for kind, name in _OF_LORAS:
        found[kind] = {key: value for key, value in found[kind].items() if key != name}
    return [_told(found[kind] or None) for kind in _CONDUCT]


def _in_parallel(pieces: Iterator[Callable[[], bytes]]) -> Iterator[bytes]:
    """The digests in order; few are waiting at a time, as a piece may be a copy."""
    threads = min(8, os.cpu_count() or 1)
    pool, waiting = ThreadPoolExecutor(threads), deque[Future[bytes]]()
    try:
        for piece in pieces:
            waiting.append(pool.submit(piece))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pieces(weights: PatchedModelWeights, key: str) -> Iterator[Callable[[], bytes]]:
    for label, tensor in _stored(weights, key):
        head = f"{key} {label} {tensor.dtype} {list(tensor.shape)}\n".encode()
        flat = as_bytes(tensor)
        for start in range(0, max(len(flat), 1), _PIECE):
            yield partial(_digest, head, flat[start : start + _PIECE])


def _stored(weights: PatchedModelWeights, key: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The plain tensors that a weight is kept as, each with a label."""
    weight, _ = weights.base(key)
    if is_ggml(weight):
        yield f"{weight.tensor_type} {tuple(weight.tensor_shape)}", weight.as_subclass(torch.Tensor)
    elif type(weight) in (torch.Tensor, torch.nn.Parameter):
        yield "", weight
    elif hasattr(weight, "__tensor_flatten__"):  # 0.33.0's quantised weights
        names, rest = weight.__tensor_flatten__()
        for name in names:
            yield f"{name} {rest}", getattr(weight, name)
    else:
        yield "", weights.read(key)


def _digest(head: bytes, part: torch.Tensor) -> bytes:
    found = sha256(head)
    with torch.inference_mode():
        found.update(part.cpu().numpy())
    return found.digest()


def _told(value: Any) -> Any:
    """A value as one whose repr tells its content.

    Raises:
        Untold: it cannot be told.
    """
    if value is None or isinstance(value, str | int | float | torch.dtype | torch.device):
        return value
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), _digest(b"", as_bytes(value)).hex()
    if isinstance(value, dict):
        return [(str(key), _told(value[key])) for key in sorted(value, key=str)]
    if isinstance(value, set):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_told(part) for part in value]
    if isinstance(value, torch.nn.Module):  # such as a changed model_sampling
        return [kind.__qualname__ for kind in type(value).__mro__], _told(vars(value))
    raise Untold(type(value).__name__)
