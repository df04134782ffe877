"""The hashes by which the field's tools call a file. All are read in pieces, and kept.

| name | what it is | who has it |
| --- | --- | --- |
| sha256 | of the whole file | `ss_new_sd_model_hash`; its first 10 digits are AutoV2 |
| old style | of 64 kB at 1 MB, 8 digits | `ss_sd_model_hash`; AutoV1 |
| of the data | sha256 of what follows the header | `sshs_model_hash`, `modelspec.hash_sha256` |

As computed by kohya's sd-scripts (library/train_util.py, 48d368f), AUTOMATIC1111's webui
(modules/hashes.py, modules/sd_models.py) and Stability's ModelSpec 1.0.1 (fe8dc60). AutoV3 is the
first 12 digits of the hash of the data, as a LoRA's header has it.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from ..errors import ProLoRAError

# Bytes done, bytes in all, what of. It may raise, to cancel.
Progress = Callable[[int, int, str], None]

_PIECE = 1 << 24
_OLD_STYLE_AT, _OLD_STYLE_LENGTH = 0x100000, 0x10000
# What the old style makes of every file that ends before the place where it reads.
OF_NOTHING = hashlib.sha256(b"").hexdigest()[:8]

# (path, size, mtime, ctime, inode), where the digest begins -> digest.
_known: dict[tuple[object, ...], str] = {}


def file_sha256(path: Path, progress: Progress = lambda done, total, name: None) -> str:
    """64 hexadecimal digits, in lower case. A file that did not change is read once a process.

    Raises:
        ProLoRAError: the file cannot be read.
        Exception: whatever `progress` raises.
    """
    return _sha256(path, 0, progress)


def data_sha256(path: Path) -> str:
    """The same of a safetensors file's tensors, without its header.

    Raises:
        ProLoRAError: the file cannot be read.
    """
    head = _read(path, 0, 8)
    return _sha256(path, 8 + int.from_bytes(head, "little"), lambda done, total, name: None)


def old_style_hash(path: Path) -> str:
    """8 hexadecimal digits, of 64 kB. Two files may well have the same one.

    Raises:
        ProLoRAError: the file cannot be read.
    """
    piece = _read(path, _OLD_STYLE_AT, _OLD_STYLE_LENGTH)
    return hashlib.sha256(piece).hexdigest()[:8]


def _sha256(path: Path, start: int, progress: Progress) -> str:
    key = (*_identity(path), start)
    if key not in _known:
        digest, done, size = hashlib.sha256(), start, path.stat().st_size
        while piece := _read(path, done, _PIECE):
            progress(done, size, path.name)
            digest.update(piece)
            done += len(piece)
        _known[key] = digest.hexdigest()
    return _known[key]


def _identity(path: Path) -> tuple[object, ...]:
    """What changes when the file does."""
    try:
        found = path.stat()
    except OSError as error:
        raise ProLoRAError(f"{path} cannot be read: {error}.") from error
    return str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _read(path: Path, start: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)
    except OSError as error:
        raise ProLoRAError(f"{path} cannot be read: {error}.") from error
