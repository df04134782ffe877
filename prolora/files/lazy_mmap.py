"""Tensors of a safetensors file, mapped into memory: a byte is read from the disk when it is used.

The safetensors library maps a whole file at once, copy on write, which Linux refuses for a file
that is larger than memory and swap together (its issue 528). Here it is mapped in stretches.
"""

import json
import mmap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from weakref import WeakKeyDictionary

import torch

# Every mapping keeps the file open once more, of which a system allows about a thousand.
_STRETCH = 2**30

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
# A torch that is older than ComfyUI's newest has not all of them.
_NEWER = {"U16": "uint16", "U32": "uint32", "U64": "uint64", "F8_E8M0": "float8_e8m0fnu"}
_DTYPES |= {code: getattr(torch, name) for code, name in _NEWER.items() if hasattr(torch, name)}


# What is mapped at the moment -> its file.
_maps: WeakKeyDictionary[mmap.mmap, Path] = WeakKeyDictionary()
_maps_lock = Lock()


def give_pages_back(paths: Collection[Path]) -> None:
    """Leaves what was read of some files to the system; it is read again when it is asked for.

    What was written to one of their tensors is lost.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):  # Windows does so by itself, when memory is short
        return
    with _maps_lock:
        maps = [mapped for mapped, path in _maps.items() if path in paths]
    for mapped in maps:
        mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class _TensorSpan:
    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class MappedFile:
    """A safetensors file whose header was found to be sound."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def tensors(self, keys: Collection[str]) -> dict[str, torch.Tensor]:
        """Writing to one of them does not reach the file.

        Returns:
            Less than was asked for, where a tensor is of a kind that torch does not have.
        """
        known = self._places()
        places = [known[key] for key in keys if key in known]
        empty = [place for place in places if place.start == place.end]  # maybe at the file's end
        found = {place.key: torch.empty(place.shape, dtype=place.dtype) for place in empty}
        filled = (place for place in places if place.start < place.end)
        for stretch in _stretches(sorted(filled, key=lambda place: place.start)):
            found |= self._mapped(stretch)
        return {key: found[key] for key in keys if key in found}

    def _mapped(self, places: list[_TensorSpan]) -> Iterator[tuple[str, torch.Tensor]]:
        first, end = places[0].start, places[-1].end
        first -= first % mmap.ALLOCATIONGRANULARITY
        with self._path.open("rb") as file:
            bytes_ = mmap.mmap(file.fileno(), end - first, access=mmap.ACCESS_COPY, offset=first)
        with _maps_lock:
            _maps[bytes_] = self._path
        for place in places:
            yield place.key, _tensor(bytes_, place, place.start - first)

    def _places(self) -> Mapping[str, _TensorSpan]:
        status = self._path.stat()
        return _places_in(self._path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)  # a transfer opens its files anew for every weight
def _places_in(path: Path, size: int, modified: int) -> Mapping[str, _TensorSpan]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    places = {}
    for key, entry in header.items():
        if key != "__metadata__" and entry["dtype"] in _DTYPES:
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
            places[key] = _TensorSpan(key, dtype, shape, start, end)
    return places


def _stretches(places: list[_TensorSpan]) -> Iterator[list[_TensorSpan]]:
    stretch: list[_TensorSpan] = []
    for place in places:
        if stretch and place.end - stretch[0].start > _STRETCH:
            yield stretch
            stretch = []
        stretch.append(place)
    if stretch:
        yield stretch


def _tensor(bytes_: mmap.mmap, place: _TensorSpan, offset: int) -> torch.Tensor:
    flat = torch.frombuffer(bytes_, dtype=torch.uint8, count=place.end - place.start, offset=offset)
    if offset % place.dtype.itemsize:  # it lies after a tensor of an odd number of bytes
        flat = flat.clone()
    return flat.view(place.dtype).reshape(place.shape)
