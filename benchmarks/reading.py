"""What reading weights costs beside mapping them as the safetensors library does.

    python -m benchmarks.reading --folder DIR

Run it in the repository's root. Of a file with weights of SDXL's commonest shapes in fp16, each
weight is opened, taken and converted to float32, as a transfer does; the two ways take turns, and
the file stays in the page cache. A read weight is copied once more than a mapped one.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from prolora.models.weights import SafetensorsWeights

from .machine import environment

SHAPES = ((640, 640), (1280, 1280), (1280, 2048), (10240, 1280))
_EACH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="for the file; a temporary one else")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(environment(torch.device("cpu")))
    print("weight | mapped, ms | read, ms | read / mapped")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "weights.safetensors"
        keys = {f"{m} x {n}.{i}": (m, n) for m, n in SHAPES for i in range(_EACH)}
        save_file({key: torch.randn(shape).half() for key, shape in keys.items()}, path)
        ours = SafetensorsWeights(path)

        def mapped(key: str) -> torch.Tensor:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(key).float()

        def read(key: str) -> torch.Tensor:
            return ours.read(key).float()

        for m, n in SHAPES:
            own = [f"{m} x {n}.{i}" for i in range(_EACH)]
            one, other = _in_turns((mapped, read), own, options.repeats)
            print(f"{m} x {n} | {one * 1e3:.1f} | {other * 1e3:.1f} | {other / one:.2f}")


def _in_turns(
    ways: tuple[Callable[[str], torch.Tensor], ...], keys: list[str], repeats: int
) -> list[float]:
    """The median seconds of one weight, for each way."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for key in keys:
            for way, taken in zip(ways, times, strict=True):
                began = time.thread_time()
                way(key)
                taken.append(time.thread_time() - began)
    return [median(taken) for taken in times]


if __name__ == "__main__":
    main()
