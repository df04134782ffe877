"""What goes wrong inside the host's models, in words for an artist."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import comfy.model_management
import torch

from ...prolora.errors import ProLoRAError, shown

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


@contextmanager
def memory_explained() -> Iterator[None]:
    """Says what to lower where the memory does not suffice."""
    try:
        yield
    except ProLoRAError:
        raise
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        raise ProLoRAError(
            f"The memory does not suffice to run the model ({_first_line(error)}). Record at a "
            "smaller width and height, or load a quantised model (fp8)."
        ) from error


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
        reason = f"{type(error).__name__}: {_first_line(error)}"
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
    return isinstance(error, numbers) and _OF_SHAPES.search(_first_line(error)) is not None


def _is_out_of_memory(error: BaseException) -> bool:
    known = comfy.model_management.OOM_EXCEPTION
    if known is not Exception and isinstance(error, known):
        return True
    return "out of memory" in str(error).lower() or "can't allocate memory" in str(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300]
