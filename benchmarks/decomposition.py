"""The costs of a weight's subspace: eigenvectors of the Gram matrix against an SVD.

    python -m benchmarks.decomposition
    python -m benchmarks.decomposition --threads 1      # where the machine does other work, too
    python -m benchmarks.decomposition --device cuda

Run it in the repository's root. Both methods get the same weights in turns in the same run, so that
other load on the machine slows both. The weights are random, with a spectrum that falls as those of
trained layers do. A basis is off by the Frobenius distance of its projector from that of an SVD in
float64, relative to the projector's norm; the worse of the two sides counts.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from prolora.algebra.effective_rank import effective_rank
from prolora.algebra.leading import leading_subspace
from prolora.algebra.subspace import Subspace

# Layers of SDXL and SD-v1.5, m x n; the last one is a 3 x 3 convolution, flattened.
SHAPES = (
    (320, 320),
    (640, 640),
    (1280, 1280),
    (5120, 1280),
    (10240, 1280),
    (1280, 5120),
    (640, 5760),
)
ENERGY = 0.8
DECAY = 0.5  # singular value i of n is about (1 + 20 i / n) ** -DECAY


@dataclass(frozen=True)
class Timed:
    seconds: float
    subspace: Subspace


def environment(device: torch.device) -> str:
    """The device's name, the CPU's threads and torch's version, for the head of a table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def main() -> None:
    """Prints a row for each shape."""
    options = _options()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    print(f"{environment(device)}, energy {ENERGY}\n")
    print("| weight | k | Gram, float64 | SVD, float32 | ratio | Gram is off | SVD is off |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for shape in SHAPES:
        weight = make_weight(shape).to(device)
        print(_row(weight, options.repeats), flush=True)


def make_weight(shape: tuple[int, int]) -> torch.Tensor:
    """A float32 weight with random singular vectors and a falling spectrum."""
    random = torch.Generator().manual_seed(0)
    m, n = shape
    k = min(m, n)
    U = torch.linalg.qr(torch.randn(m, k, generator=random, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(n, k, generator=random, dtype=torch.float64)).Q
    S = (1 + 20 * torch.arange(k, dtype=torch.float64) / k) ** -DECAY
    weight: torch.Tensor = (U * S) @ V.T
    return weight.float()


def by_svd(weight: torch.Tensor) -> Subspace:
    """The same subspace from an SVD in the weight's own dtype."""
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    k = effective_rank(S.double().square(), ENERGY)
    return Subspace(U[:, :k], Vh[:k].T, S[:k].square() / S.square().sum())


def by_gram(weight: torch.Tensor) -> Subspace:
    return leading_subspace(weight, ENERGY)


def _row(weight: torch.Tensor, repeats: int) -> str:
    exact = by_svd(weight.double())
    gram, svd = [_timed(by_gram, weight)], [_timed(by_svd, weight)]  # warms both up
    for _ in range(repeats):
        gram.append(_timed(by_gram, weight))
        svd.append(_timed(by_svd, weight))
    gram_seconds = median(run.seconds for run in gram[1:])
    svd_seconds = median(run.seconds for run in svd[1:])
    m, n = weight.shape
    cells = (
        f"{m} x {n}",
        f"{exact.rank}",
        f"{gram_seconds * 1e3:.0f} ms",
        f"{svd_seconds * 1e3:.0f} ms",
        f"{svd_seconds / gram_seconds:.1f}",
        f"{_distance(gram[-1].subspace, exact):.0e}",
        f"{_distance(svd[-1].subspace, exact):.0e}",
    )
    return f"| {' | '.join(cells)} |"


def _timed(decompose: Callable[[torch.Tensor], Subspace], weight: torch.Tensor) -> Timed:
    wait(weight.device)
    start = time.perf_counter()
    subspace = decompose(weight)
    wait(weight.device)
    return Timed(time.perf_counter() - start, subspace)


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _distance(subspace: Subspace, exact: Subspace) -> float:
    pairs = ((subspace.U, exact.U), (subspace.V, exact.V))
    return max(_projector_distance(basis.double(), other) for basis, other in pairs)


def _projector_distance(A: torch.Tensor, B: torch.Tensor) -> float:
    """||A A^T - B B^T||_F / ||B B^T||_F, by what of each lies outside of the other."""
    outside = (A - B @ (B.T @ A)).square().sum() + (B - A @ (A.T @ B)).square().sum()
    return math.sqrt(float(outside) / B.shape[1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Gram matrix or SVD: time and accuracy")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (cpu)")
    parser.add_argument("--threads", type=int, default=0, help="of torch, on the CPU (its choice)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each (5)")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
