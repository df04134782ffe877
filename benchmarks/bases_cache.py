"""What a cache of bases on disk saves: a module moved with its bases computed, and with them read.

    python -m benchmarks.bases_cache --folder DIR

Run it in the repository's root. For each shape of SDXL's UNet it writes a weight of either model in
fp16 and moves a LoRA of rank 32 between them, from the files to the moved factors: with nothing
kept, with what is kept and has been dropped from the page cache (where the system can do so), and
with what is kept and still there. The three take turns. The weights' own files stay in the page
cache: both ways read them.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from prolora.adapters import AdapterFile, LoraAdapter
from prolora.algebra.kept import NOTHING_KEPT, Forgetful
from prolora.files.kept_on_disk import KeptOnDisk
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import SafetensorsWeights
from prolora.transfer.job import transfer_resolved
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings

from .machine import environment
from .spectra import made

# Shapes of SDXL's UNet with their spectra (see spectra.py), and how many modules have them.
SHAPES = {
    ((1280, 1280), "attention"): 372,
    ((1280, 2048), "values"): 120,
    ((640, 640), "attention"): 70,
    ((10240, 1280), "mlp"): 60,
    ((1280, 5120), "mlp"): 60,
}
_RANK = 32
_SETTINGS = TransferSettings("full", threshold=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one else")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(environment(torch.device("cpu")))
    print("seconds for a module | computed | read from disk | from memory | times faster | MB")
    sums = [0.0, 0.0, 0.0]
    for (shape, spectrum), count in SHAPES.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            times, size = _measured(Path(folder), shape, spectrum, options.repeats)
        _say(f"{shape[0]} x {shape[1]}", times, size / 1e6)
        sums = [total + count * seconds for total, seconds in zip(sums, times, strict=True)]
    _say(f"all {sum(SHAPES.values())} modules of these shapes", sums, 0)


def _say(what: str, times: list[float], size: float) -> None:
    computed, read, warm = times
    print(
        f"{what} | {computed:.3f} | {read:.3f} | {warm:.3f} | "
        f"{computed / read:.1f} and {computed / warm:.1f} | {size:.0f}",
        flush=True,
    )


def _measured(
    folder: Path, shape: tuple[int, int], spectrum: str, repeats: int
) -> tuple[list[float], int]:
    source = made(shape, spectrum, 0)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * float(source.std())
    paths = folder / "source.safetensors", folder / "target.safetensors"
    for path, weight in zip(paths, (source, source + 0.1 * noise), strict=True):
        save_file({"m.weight": weight.half()}, path)
    up, down = torch.randn(shape[0], _RANK) * 0.02, torch.randn(_RANK, shape[1]) * 0.02
    lora = AdapterFile("lora", (LoraAdapter("m", up.half(), down.half(), 32.0),), {}, (), {})
    kept = KeptOnDisk(folder / "bases", 1 << 34)

    def run(kept: Forgetful) -> float:
        ours, theirs = (
            Model(path.stem, "SDXL", SafetensorsWeights(path), {"m": WeightRef("m.weight")})
            for path in paths
        )
        start = time.perf_counter()
        transfer_resolved(resolve(lora, ours), theirs, _SETTINGS, kept=kept)
        return time.perf_counter() - start

    run(kept)
    entries = list((folder / "bases").iterdir())
    assert len(entries) == 1 and not kept.notes
    times: list[list[float]] = [[], [], []]
    for _ in range(repeats):
        times[0].append(run(NOTHING_KEPT))
        drop_from_page_cache(entries[0])
        times[1].append(run(kept))
        times[2].append(run(kept))
    return [median(found) for found in times], entries[0].stat().st_size


def drop_from_page_cache(path: Path) -> None:
    """As far as the system offers it, which Linux does."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
