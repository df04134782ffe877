"""Weights that a conversion makes of a file's tensors: renamed, cut apart, joined.

A host converts all of a file at once, which for a file of 24 GB takes as much memory. Here its
conversion runs once on tensors without data. That tells the names and shapes of what comes out,
and which of the file's tensors each is made of; from those, a weight is made when it is read.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from .weights import StoredWeights

Tensors = dict[str, torch.Tensor]
Convert = Callable[[Tensors], Tensors]


class ConvertedWeights(StoredWeights):
    """The tensors that a conversion makes of a file's.

    One that is only renamed is the file's own tensor; any other is converted whenever it is read,
    from copies, since conversions write into what they are given.

    Args:
        tensors: the file's.
        convert: gets tensors by the file's keys and returns them by others. It must do the same
            to tensors on the meta device as to others.
        read: gives some of the file's tensors, where those in `tensors` tell no more than their
            shapes and dtypes.
        name: of the file, for messages.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        convert: Convert,
        read: Callable[[Collection[str]], Tensors] | None = None,
        name: str = "",
    ) -> None:
        self._name = name
        self._tensors, self._convert = tensors, convert
        self._read = read or (lambda names: {name: tensors[name] for name in names})
        self._empty = {
            key: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            for key, tensor in tensors.items()
        }
        with _Origins(self._empty) as origins:
            self._made = convert(dict(self._empty))
        self._origins = {key: origins.of(tensor) for key, tensor in self._made.items()}
        self._renamed = {
            key: name
            for key, names in self._origins.items()
            for name in names
            if self._made[key] is self._empty[name] and not origins.was_written(self._made[key])
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __contains__(self, key: object) -> bool:
        return key in self._made

    def stored_shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._made[key].shape)

    def stored(self, key: str) -> torch.Tensor:
        if key in self._renamed:
            name = self._renamed[key]
            return self._read([name])[name]
        read = self._read(self._origins[key])
        copies = {name: tensor.clone() for name, tensor in read.items()}
        return self._convert(self._empty | copies)[key]

    def place(self, key: str) -> str:
        return f" of {self._name}" if self._name else ""

    def unread(self) -> Tensors:
        """All of them: what was given for a renamed one, else one without data."""
        return {
            key: self._tensors[self._renamed[key]] if key in self._renamed else tensor
            for key, tensor in self._made.items()
        }


class _Origins(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what tensors are made of, through everything that torch does with them.

    A tensor goes by its storage, which it shares with its views. The storages are kept: another
    one would be given the address of one that is gone.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages: list[torch.UntypedStorage] = []
        self._of: dict[int, set[str]] = {}
        self._written: set[int] = set()
        for name, tensor in tensors.items():
            self._note(tensor, [name])

    def of(self, tensor: torch.Tensor) -> set[str]:
        return self._of.get(_address(tensor), set())

    def was_written(self, tensor: torch.Tensor) -> bool:
        return _address(tensor) in self._written

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {name for tensor in _tensors_in((args, kwargs)) for name in self.of(tensor)}
        for tensor in _tensors_in(result):
            self._note(tensor, given)
            if func._schema.is_mutable:
                self._written.add(_address(tensor))
        return result

    def _note(self, tensor: torch.Tensor, names: Iterable[str]) -> None:
        self._storages.append(tensor.untyped_storage())
        self._of.setdefault(_address(tensor), set()).update(names)


def _address(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _tensors_in(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, torch.Tensor)]
