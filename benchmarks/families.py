"""The costs of a dense family beside those of a LoRA: a LoKr and a LoRA of the same modules.

    python -m benchmarks.families
    python -m benchmarks.families --device cuda

Run it in the repository's root. Both are moved between the same two weights in the same run, in
turns. The LoRA stays factored; the LoKr's delta is formed, projected in blocks and truncated to a
LoRA. The last columns are the truncation alone: by the Gram matrix, as ProLoRA does it, and by
torch's randomised SVD (`torch.svd_lowrank`, 2 iterations, 8 extra vectors), with how much more of
the delta each misses than the best truncation to that rank.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from prolora.adapters import AdapterFile, LoraAdapter
from prolora.adapters.lokr import LokrAdapter
from prolora.algebra.updates import DenseUpdate, LowRankUpdate
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .machine import environment, wait
from .spectra import made

SHAPES = ((640, 640), (1280, 1280), (10240, 1280), (1280, 5120), (640, 5760))
RANK = 32
DRIFT = 0.1  # of the target, relative to the source
FACTOR = 8  # sides of the LoKr's first factor


def main() -> None:
    """Prints a row for each shape."""
    options = _options()
    device = torch.device(options.device)
    print(f"{environment(device)}, rank {RANK}\n")
    columns = "truncation, Gram | truncation, randomised | Gram | randomised"
    print(f"| weight | LoRA | LoKr | ratio | {columns} |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for shape in SHAPES:
        print(_row(shape, device, options.repeats), flush=True)


def _row(shape: tuple[int, int], device: torch.device, repeats: int) -> str:
    source = made(shape, "mlp").to(device)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    target = source + DRIFT * source.std() * noise
    lora, lokr = _lora(shape), _lokr(shape)
    settings = TransferSettings("full", rank=RANK, threshold=0, device=device)

    models = [
        Model(name, "", StateDictWeights({"weight": weight}), {"layer": WeightRef("weight")})
        for name, weight in (("source", source), ("target", target))
    ]

    def move(adapter: LoraAdapter | LokrAdapter) -> None:
        transfer_lora(AdapterFile("a", (adapter.renamed("layer"),), {}, (), {}), *models, settings)

    delta = lokr.update(source).delta
    jobs: list[Callable[[], object]] = [
        lambda: move(lora),
        lambda: move(lokr),
        lambda: DenseUpdate(delta).truncate(RANK),
        lambda: torch.svd_lowrank(delta, q=RANK + 8),
    ]
    times: list[list[float]] = [[] for _ in jobs]
    for repeat in range(repeats + 1):  # the first one warms up
        for job, seconds in zip(jobs, times, strict=True):
            elapsed = _seconds(job, device)
            seconds.extend([elapsed] if repeat else [])
    lora_time, lokr_time, gram, randomised = map(median, times)
    cells = (
        f"{shape[0]} x {shape[1]}",
        *(f"{value * 1e3:.0f} ms" for value in (lora_time, lokr_time)),
        f"{lokr_time / lora_time:.2f}",
        *(f"{value * 1e3:.0f} ms" for value in (gram, randomised)),
        *(f"{value:.4f}" for value in _misses(delta)),
    )
    return f"| {' | '.join(cells)} |"


def _lora(shape: tuple[int, int]) -> LoraAdapter:
    random = torch.Generator().manual_seed(2)
    up, down = (torch.randn(s, generator=random) for s in ((shape[0], RANK), (RANK, shape[1])))
    return LoraAdapter("lora", up, down, None)


def _lokr(shape: tuple[int, int]) -> LokrAdapter:
    """A LoKr with a small whole first factor and a second factor of low rank."""
    random = torch.Generator().manual_seed(3)
    rows, columns = shape[0] // FACTOR, shape[1] // FACTOR
    w1 = torch.randn(FACTOR, FACTOR, generator=random)
    up = torch.randn(rows, RANK // 2, generator=random)
    down = torch.randn(RANK // 2, columns, generator=random)
    return LokrAdapter("lokr", w1, LowRankUpdate(up, down), 1.0)


def _misses(delta: torch.Tensor) -> tuple[float, float]:
    """How much more each of the two misses than the best truncation to RANK, as a share."""
    exact = torch.linalg.svdvals(delta.double())
    best = float(exact[RANK:].norm())
    factors = DenseUpdate(delta).truncate(RANK).factors
    U, S, V = torch.svd_lowrank(delta, q=RANK + 8)
    ours = factors.up @ factors.down
    other = (U[:, :RANK] * S[:RANK]) @ V[:, :RANK].T
    return tuple(
        max(float((delta - made).double().norm()) / best - 1, 0.0) for made in (ours, other)
    )


def _seconds(job: Callable[[], object], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    job()
    wait(device)
    return time.perf_counter() - start


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A dense family beside a LoRA: time")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (cpu)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each (3)")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
