"""The machine that figures are from: its name, its threads, its rate of matrix products."""

import platform
import time
from datetime import date
from functools import cache
from pathlib import Path

import torch


def machine(device: torch.device) -> dict[str, str | int]:
    """What stands at the head of a table."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def environment(device: torch.device) -> str:
    """The same in a line."""
    threads = torch.get_num_threads()
    return f"{device_name(device)}, {threads} threads, torch {torch.__version__}, {date.today()}"


def device_name(device: torch.device) -> str:
    """The card, or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _processor()


@cache
def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor() or "cpu"


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(device: torch.device, size: int = 1280, repeats: int = 12) -> float:
    """Floating-point operations a second of a square float32 product, the best of some.

    On a CPU a second is one of CPU time, so that other work on the machine counts little: it is the
    rate of one core.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    left, right = torch.randn(2, size, size, device=device)
    best = float("inf")
    for _ in range(repeats):
        wait(device)
        start = clock()
        left @ right
        wait(device)
        best = min(best, clock() - start)
    return 2 * size**3 / best
