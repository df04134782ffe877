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
from pathlib import Path

from ..errors import ProLoRAError
from ..files import digests
from ..files.digests import stamp
from ..progress import Progress, silent

_OLD_STYLE_AT, _OLD_STYLE_LENGTH = 0x100000, 0x10000
# What the old style makes of every file that ends before the place where it reads.
OF_NOTHING = hashlib.sha256(b"").hexdigest()[:8]

# (path, stamp, where the bytes begin) -> digest.
_known: dict[tuple[str, str, int], str] = {}


def file_sha256(path: Path, progress: Progress = silent) -> str:
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
    return _sha256(path, 8 + int.from_bytes(head, "little"), silent)


def old_style_hash(path: Path) -> str:
    """8 hexadecimal digits, of 64 kB. Two files may well have the same one.

    Raises:
        ProLoRAError: the file cannot be read.
    """
    piece = _read(path, _OLD_STYLE_AT, _OLD_STYLE_LENGTH)
    return hashlib.sha256(piece).hexdigest()[:8]


def _sha256(path: Path, start: int, progress: Progress) -> str:
    try:
        key = str(path), stamp(path), start
    except OSError as error:
        raise ProLoRAError(f"{path} cannot be read: {error}.") from error
    if key not in _known:
        _known[key] = digests.file_sha256(path, progress, start)
    return _known[key]


def _read(path: Path, start: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)
    except OSError as error:
        raise ProLoRAError(f"{path} cannot be read: {error}.") from error
