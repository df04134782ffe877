"""MODELs that torch.compile was put on: while a node runs they are as they were without it.

It renames the weights of what is loaded (`_orig_mod`), so that no LoRA finds them, and hooks that
come later are not called.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import comfy.utils
import torch


@contextmanager
def uncompiled(inputs: Iterable[Any]) -> Iterator[None]:
    """Inside, no MODEL or CLIP of a node's inputs is compiled; afterwards they are as before."""
    with ExitStack() as stack:
        for patcher in _patchers(inputs):
            for name in tuple(getattr(patcher, "object_patches_backup", ())):
                _take_off(stack, patcher, name)
        if hasattr(torch.compiler, "set_stance"):  # torch 2.6 and later; also for wrappers
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def compiled_parts(patcher: Any) -> list[str]:
    """What torch.compile is put on when a MODEL is loaded."""
    return [name for name, part in patcher.object_patches.items() if _inner(part) is not None]


def _inner(part: Any) -> Any:
    """What torch.compile was put on; None for what it was not put on."""
    return getattr(part, "_modules", {}).get("_orig_mod")


def _patchers(inputs: Iterable[Any]) -> Iterator[Any]:
    for given in inputs:
        if isinstance(given, (list, tuple)):  # of a node that takes lists
            yield from _patchers(given)
        elif hasattr(given, "object_patches"):
            yield given
        elif hasattr(given, "patcher"):
            yield given.patcher


def _take_off(stack: ExitStack, patcher: Any, name: str) -> None:
    compiled = comfy.utils.get_attr(patcher.model, name)
    inner = _inner(compiled)
    if inner is not None:
        comfy.utils.set_attr(patcher.model, name, inner)
        stack.callback(partial(_put_back, patcher, name, compiled))


def _put_back(patcher: Any, name: str, compiled: Any) -> None:
    """But for what the host has unloaded meanwhile."""
    is_loaded = name in patcher.object_patches_backup
    if is_loaded and comfy.utils.get_attr(patcher.model, name) is _inner(compiled):
        comfy.utils.set_attr(patcher.model, name, compiled)
