"""A LoRA's file with the hashes, rank and alpha that its header is to tell.

They are computed as kohya's sd-scripts does when it saves (train_util.py and networks/lora.py,
48d368f): `sshs_model_hash` is the sha256 of the data, `sshs_legacy_hash` the old style hash of the
file with no more than the `ss_` keys in its header. `modelspec.hash_sha256` is the former after
`0x` (ModelSpec 1.0.1). Where ranks or alphas differ, `Dynamic` stands for them (its
networks/resize_lora.py). A file whose largest is the one that it tells is left at that: kohya has
a smaller rank for convolutions.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ..files.atomic_write import atomic_write
from ..files.safetensors import save_safetensors
from ..progress import Progress, silent
from .hashes import data_sha256, file_sha256, old_style_hash
from .moved import BASE_HASH, DATA_HASH, KEPT, LEGACY_HASH, MODELSPEC_HASH, OLD_BASE_HASH

_DOWN = (".lora_down.weight", ".lora_A.weight")
_RANK, _ALPHA = "ss_network_dim", "ss_network_alpha"


def write_lora(
    tensors: Mapping[str, torch.Tensor],
    path: Path,
    metadata: Mapping[str, str],
    base: Path | None = None,
    progress: Progress = silent,
    overwrite: bool = True,
) -> None:
    """Writes a moved LoRA whole or not at all.

    Hashes that the original had are computed anew. The file is written twice for those of its
    data, the first time as kohya hashes it, so no second copy of the tensors is in memory.

    Args:
        metadata: of moved_header.
        base: the target's file; without it, its hashes are not told.
        overwrite: see atomic_write.

    Raises:
        ProLoRAError: see write_safetensors; or the base cannot be read.
        Exception: whatever `progress` raises, while the base is read.
    """
    header = {**metadata, **_rank_and_alpha(tensors, metadata)}
    was_told = {key for key in header if key.startswith(KEPT)}
    if base is not None and base.is_file():
        if f"{KEPT}{OLD_BASE_HASH}" in was_told:
            header[OLD_BASE_HASH] = old_style_hash(base)
        if f"{KEPT}{BASE_HASH}" in was_told:
            header[BASE_HASH] = file_sha256(base, progress)
    with atomic_write(path, overwrite) as file:
        told = [key for key in _DATA_HASHES if f"{KEPT}{key}" in was_told]
        if told:
            save_safetensors(tensors, file, _of_training(header))
            header |= {key: _DATA_HASHES[key](Path(file.name)) for key in told}
        save_safetensors(tensors, file, header)


_DATA_HASHES: Mapping[str, Callable[[Path], str]] = {
    DATA_HASH: data_sha256,
    LEGACY_HASH: old_style_hash,
    MODELSPEC_HASH: lambda path: f"0x{data_sha256(path)}",
}


def _of_training(header: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in header.items() if key.startswith("ss_")}


def _rank_and_alpha(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> dict[str, str]:
    """What the header says of them, where it does and they are others now."""
    ranks = {float(t.shape[0]) for key, t in tensors.items() if key.endswith(_DOWN)}
    alphas = {float(t) for key, t in tensors.items() if key.endswith(".alpha")}
    changed: dict[str, str] = {}
    for key, found in ((_RANK, ranks), (_ALPHA, alphas or ranks)):
        if key in metadata and found and max(found) != _number(metadata[key]):
            changed[key] = f"{next(iter(found)):g}" if len(found) == 1 else "Dynamic"
            changed[f"{KEPT}{key}"] = metadata[key]
    return changed


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
