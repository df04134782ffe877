"""What another pack may have set in torch for the whole process, and whether it is still so."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Set = Callable[[], object]
_THREADS = torch.get_num_threads()


def _deterministic(on: bool) -> None:
    torch.use_deterministic_algorithms(on)  # which fills what is not written yet with NaN


def _default_device(name: str | None) -> None:
    torch.set_default_device(name)


def _autocast(on: bool) -> None:
    torch.set_autocast_enabled("cpu", on)


# Name -> what sets it, and what puts it back. The device is one that holds no numbers.
DISTURBANCES: dict[str, tuple[Set, Set]] = {
    **{
        f"default dtype {dtype}": (
            lambda dtype=dtype: torch.set_default_dtype(dtype),
            lambda: torch.set_default_dtype(torch.float32),
        )
        for dtype in (torch.float64, torch.float16, torch.bfloat16)
    },
    "default device": (lambda: _default_device("meta"), lambda: _default_device(None)),
    "autocast": (lambda: _autocast(True), lambda: _autocast(False)),
    "deterministic algorithms": (lambda: _deterministic(True), lambda: _deterministic(False)),
    "products in bfloat16": (
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: torch.set_float32_matmul_precision("highest"),
    ),
    "five threads": (
        lambda: torch.set_num_threads(5),
        lambda: torch.set_num_threads(_THREADS),
    ),
}


@contextmanager
def disturbed(name: str) -> Iterator[None]:
    """Inside, it is set; whoever has changed it meanwhile is found out."""
    change, put_back = DISTURBANCES[name]
    change()
    try:
        before = settings()
        yield
        assert settings() == before
    finally:
        put_back()


def settings() -> tuple[object, ...]:
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    return (
        torch.get_default_dtype(),
        torch.empty(0).device,
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        *(getattr(backend, "fp32_precision", "") for backend in backends),
        torch.get_num_threads(),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.get_rng_state().sum().item(),
    )
