"""Measures what is missing: passes and a training step of the real networks, and a transfer."""

from collections.abc import Callable

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.evidence.results import BUILD, FOLDER, Results
from benchmarks.machine import environment
from benchmarks.times.networks import HALF, REAL, TINY, Networks, Size, built
from benchmarks.times.transferring import kinds, transfer_of
from benchmarks.timing import timed

KEYS = ("device", "part", "repeat")
COLUMNS = ("seconds", "tflop", "mparameters", "modules", "environment")
COUNTED = "counted"  # the device of what is not run, but counted for pictures of the real size
PASSES = ("sdxl", "sd15", "two models", "training step")
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


def _count(found: Results, real: Size) -> None:
    if all(found.known(COUNTED, part, 0) for part in PASSES):
        return
    networks = built(real, torch.device("meta"), torch.bfloat16)
    each = networks.parameters
    each |= {"two models": sum(each.values()), "training step": each["sdxl"]}
    for part, tflop in counted(networks).items():
        if not found.known(COUNTED, part, 0):
            found.add(COUNTED, part, 0, tflop=tflop, mparameters=each[part] / 1e6)


def _passes(found: Results, device: torch.device, quick: bool) -> None:
    real, repeats = (TINY, 1) if quick else (REAL, REPEATS)
    _count(found, real)
    if all(found.known(device.type, part, i) for part in PASSES for i in range(repeats)):
        return
    size = HALF if real is REAL and device.type == "cpu" else real
    tflop = counted(built(size, torch.device("meta"), torch.bfloat16))
    networks = built(size, device, torch.float16 if device.type == "cuda" else torch.bfloat16)
    for repeat in range(repeats):
        for part, job in networks.jobs():
            if device.type == "cuda" and repeat == 0:
                job()
            _measure(found, device, part, repeat, job, tflop=tflop[part])


def counted(networks: Networks) -> dict[str, float]:
    """TFLOP of each job, a multiplication and an addition being two. On meta none is computed."""
    found = {}
    for part, job in networks.jobs():
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
            modules, tflop = len(kind.modules), kind.operations / 1e12
            _measure(found, device, kind.name, repeat, job, modules=modules, tflop=tflop)


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
