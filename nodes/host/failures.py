"""What goes wrong inside the host's models, in words for an artist."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.util import find_spec
from typing import Any

import comfy.model_management
import torch

from ...prolora.errors import ProLoRAError, shown
from ...prolora.memory import first_line, is_out_of_memory, no_memory
from ...prolora.surroundings import usual_torch
from .compiled import uncompiled
from .kept import forget

# What a model raises where it cannot compute. The host's exception for Cancel is none of them.
_MISFITS = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
)

# What torch and the host say where shapes do not fit each other.
_OF_SHAPES = re.compile(
    r"mat1 and mat2|mat1 dim|size mismatch|shape mismatch|mismatched shape|sizes? of tensor"
    r"|expanded size|cannot be multiplied|must match|not broadcastable|can't be broadcast"
    r"|shape '.*' is invalid|normalized_shape|expected .*\b(channels|size|sizes|dimensions?|shape)"
    r"|channels? .*expected|to have \d+|split_with_sizes|reduction pattern|not divisible",
    re.IGNORECASE,
)

# What begins a tag of HTML. The page of June 2024 takes an error for HTML, a stranger's words in
# it too; the hosts since then have this package, and a page that does not.
_TAG = re.compile(r"<(?=[a-z/!?])", re.IGNORECASE)
_TAKES_MARKUP = find_spec("comfy_execution") is None


def make_showable(error: ProLoRAError) -> None:
    """Changes the words of an error, and of what caused it, to what page and log show as it is."""
    if _TAKES_MARKUP:
        error.args = (_TAG.sub("< ", str(error)),)
    cause = error.__cause__
    while cause is not None:
        cause.args = tuple(shown(word) if isinstance(word, str) else word for word in cause.args)
        cause = cause.__cause__ or cause.__context__


def model_name(model: Any) -> str:
    """What to call a MODEL: the name of the host's configuration, like SD3."""
    return type(model.model.model_config).__name__


_AGAIN = (
    "ComfyUI's models were unloaded now: close what else needs memory, and queue the prompt again."
)
_SMALLER = "Record at a smaller width and height, or load a quantised model (fp8)."


@contextmanager
def memory_explained(advice: str = _SMALLER) -> Iterator[None]:
    """Says what to do where the memory does not suffice.

    Args:
        advice: a sentence; that of a model that is run, if none is given.
    """
    try:
        yield
    except ProLoRAError:
        raise
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        raise ProLoRAError(f"{no_memory(error)} {advice}") from error


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A node's function in the surroundings that it was written for.

    What other packs have set in torch for the whole process does not reach it. Where the memory
    does not suffice it says so, and the next prompt has room: models are unloaded, as the host does
    after such an error of its own, and what the pack keeps is dropped.
    """

    @wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        try:
            inputs = (*arguments, *named.values())
            with usual_torch(), uncompiled(inputs), memory_explained(_AGAIN):
                return function(*arguments, **named)
        except ProLoRAError as error:
            if any(map(_is_out_of_memory, _causes(error))):
                forget()
                comfy.model_management.unload_all_models()
                comfy.model_management.soft_empty_cache()
            raise

    return run


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


@contextmanager
def misfits_explained(model: Any, shapes: Callable[[], str]) -> Iterator[None]:
    """Says which model cannot take which conditioning, or stops otherwise.

    Args:
        shapes: describes what it was given.
    """
    try:
        yield
    except ProLoRAError:
        raise
    except _MISFITS as error:
        if _is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        if torch.is_grad_enabled() and "autograd" in str(error).lower():
            raise ProLoRAError(
                f"{model_name(model)} cannot be refined in this ComfyUI, because it computes "
                f"without gradients ({reason}). Load its weights as fp16, bf16 or fp32, without "
                "--fast, or do without refinement."
            ) from error
        if _is_of_shapes(error):
            raise ProLoRAError(
                f"The model {model_name(model)} cannot take this conditioning ({shapes()}): "
                f"{reason}. Record with the text encoders and the size of latents that belong to "
                "this model."
            ) from error
        raise ProLoRAError(
            f"The model {model_name(model)} stops while it runs ({reason}). See whether a KSampler "
            "draws with the same MODEL; if it does not, load it in another precision or without "
            "the nodes that change it."
        ) from error


def _is_of_shapes(error: Exception) -> bool:
    numbers = RuntimeError | ValueError | IndexError | AssertionError
    return isinstance(error, numbers) and _OF_SHAPES.search(first_line(error)) is not None


def _is_out_of_memory(error: BaseException) -> bool:
    known = comfy.model_management.OOM_EXCEPTION
    return is_out_of_memory(error) or (known is not Exception and isinstance(error, known))
