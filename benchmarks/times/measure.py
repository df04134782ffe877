"""Measures what is missing: passes and a training step of the real networks, and a transfer."""

from collections.abc import Callable

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.evidence.results import BUILD, FOLDER, Results
from benchmarks.machine import environment
from benchmarks.times.networks import HALF, REAL, TINY, Size, built
from benchmarks.times.transferring import kinds, transfer_of
from benchmarks.timing import timed

KEYS = ("device", "part", "repeat")
# `tflop` is of what ran; `full_tflop` of the same for pictures of the real size.
COLUMNS = ("seconds", "tflop", "full_tflop", "mparameters", "modules", "environment")
REPEATS = 3


def results(quick: bool = False) -> Results:
    folder = BUILD / "times" / "quick" if quick else FOLDER
    return Results(folder / "times.csv", KEYS, COLUMNS)


def run(quick: bool) -> None:
    """On a GPU where there is one, else on one thread; all parts of a repeat, then the next."""
    found = results(quick)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _transfers(found, device, quick)
        _passes(found, device, quick)
    finally:
        torch.set_num_threads(threads)


def _passes(found: Results, device: torch.device, quick: bool) -> None:
    real, repeats = (TINY, 1) if quick else (REAL, REPEATS)
    size = HALF if real is REAL and device.type == "cpu" else real
    parts = ("sdxl", "sd15", "two models", "training step")
    if all(found.known(device.type, part, i) for part in parts for i in range(repeats)):
        return
    full = counted(real)
    tflop = full if size is real else counted(size)
    networks = built(size, device, torch.float16 if device.type == "cuda" else torch.bfloat16)
    each = networks.parameters
    each |= {"two models": sum(each.values()), "training step": each["sdxl"]}
    for repeat in range(repeats):
        for part, job in networks.jobs():
            if device.type == "cuda" and repeat == 0:
                job()
            operations = {"tflop": tflop[part], "full_tflop": full[part]}
            many = each[part] / 1e6
            _measure(found, device, part, repeat, job, mparameters=many, **operations)


def counted(size: Size) -> dict[str, float]:
    """TFLOP of each job, a multiplication and an addition being two; counted, nothing computed."""
    found = {}
    for part, job in built(size, torch.device("meta"), torch.bfloat16).jobs():
        with FlopCounterMode(display=False) as counter:
            job()
        found[part] = counter.get_total_flops() / 1e12
    return found


def _transfers(found: Results, device: torch.device, quick: bool) -> None:
    """A module of each kind; the last one alone in a quick run."""
    repeats = range(1 if quick else REPEATS)
    for kind in kinds()[-1:] if quick else kinds():
        if all(found.known(device.type, kind.name, repeat) for repeat in repeats):
            continue
        job = transfer_of(kind, device)
        job()  # imports, and chooses kernels
        for repeat in repeats:
            tflop = kind.operations / 1e12
            operations = {"tflop": tflop, "full_tflop": tflop}
            modules = len(kind.modules)
            _measure(found, device, kind.name, repeat, job, modules=modules, **operations)


def _measure(
    found: Results,
    device: torch.device,
    part: str,
    repeat: int,
    job: Callable[[], object],
    **values: float,
) -> None:
    """Seconds of CPU time, which other work changes little; of a GPU, those on the clock."""
    if found.known(device.type, part, repeat):
        return
    took = timed(job, device)
    seconds = took.cpu_seconds if device.type == "cpu" else took.seconds
    said = f"{environment(device)}, diffusers {diffusers.__version__}"
    found.add(device.type, part, repeat, seconds=seconds, environment=said, **values)
    print(f"times: {part}, {seconds:.3g} s", flush=True)
