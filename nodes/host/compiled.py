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
            for name in getattr(patcher, "object_patches_backup", {}):
                _take_off(stack, patcher.model, name)
        if hasattr(torch.compiler, "set_stance"):  # torch 2.6 and later; also for wrappers
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _patchers(inputs: Iterable[Any]) -> Iterator[Any]:
    for given in inputs:
        if isinstance(given, (list, tuple)):  # of a node that takes lists
            yield from _patchers(given)
        elif hasattr(given, "object_patches"):
            yield given
        elif hasattr(given, "patcher"):
            yield given.patcher


def _take_off(stack: ExitStack, model: Any, name: str) -> None:
    compiled = comfy.utils.get_attr(model, name)
    inner = getattr(compiled, "_modules", {}).get("_orig_mod")
    if inner is not None:
        comfy.utils.set_attr(model, name, inner)
        stack.callback(partial(_put_back, model, name, inner, compiled))


def _put_back(model: Any, name: str, inner: Any, compiled: Any) -> None:
    if comfy.utils.get_attr(model, name) is inner:  # else the host has changed it meanwhile
        comfy.utils.set_attr(model, name, compiled)
