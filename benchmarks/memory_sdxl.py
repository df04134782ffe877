"""Peak memory and time of a transfer between two SDXL checkpoints of full size (Linux).

    python -m benchmarks.memory_sdxl                # 60 modules, spread evenly over the LoRA
    python -m benchmarks.memory_sdxl --modules 0    # all 986: 20 minutes on 2 CPU cores
    python -m benchmarks.memory_sdxl --child ssd-1b --mode copy    # what pairing the blocks costs

Run it in the repository's root. It writes two checkpoints with SDXL's real names and shapes in
fp16, 7 GB each, and a rank-32 LoRA, all of random numbers. Then it runs the command line's transfer
in a process of its own and watches that process. The second checkpoint is the first plus a tenth of
noise, so its modules pass the threshold; with --child it is the UNet of a pruned child, made of
blocks of the first plus noise. No real weights are needed, because memory and time depend on the
shapes alone.
"""

import argparse
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fixtures.children import CHILDREN, Child, any_of, origins
from fixtures.stable_diffusion import (
    LoraModule,
    Shapes,
    file_header,
    sdxl_checkpoint,
    sdxl_lora_modules,
    unet,
)

ROOT = Path(__file__).resolve().parent.parent
NOISE = 0.1  # of the target, relative to the source's weights
RANK = 32
BY_NAME = {child.inventory: child for child in CHILDREN}
UNET = "model.diffusion_model."  # where it lies in a checkpoint
CHUNK = 1 << 22  # random numbers in memory at a time


@dataclass(frozen=True)
class Files:
    source: Path
    target: Path
    lora: Path
    out: Path

    def __iter__(self) -> Iterator[Path]:
        return iter((self.source, self.target, self.lora, self.out))


@dataclass(frozen=True)
class Run:
    """What was measured of the transfer's process.

    Attributes:
        seconds, cpu_seconds: wall time, and CPU time of all threads.
        peak: the most resident bytes, including pages of mapped files.
        peak_own: the most resident bytes without pages of files; sampled.
    """

    seconds: float
    cpu_seconds: float
    peak: int
    peak_own: int


def main() -> None:
    """Makes the files, runs the transfer, prints the figures and removes the files."""
    options = _options()
    modules = evenly(sdxl_lora_modules(), options.modules)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        if options.keep:
            folder = options.folder or Path(tempfile.gettempdir())
        files = Files(*(folder / f"{n}.safetensors" for n in ("source", "target", "lora", "out")))
        shapes = sdxl_checkpoint()
        if not (options.keep and files.source.exists() and files.target.exists()):
            print("writing two checkpoints (a few minutes) ...", flush=True)
            write_pair(shapes, files.source, files.target)
        if options.child:
            write_child(BY_NAME[options.child], files.source, files.target)
        write_lora(modules, files.lora)
        run = watch(_command(files, options.mode, options.device))
        _print_table(shapes, modules, files, run)


def evenly(modules: Sequence[LoraModule], count: int) -> Sequence[LoraModule]:
    """A subset of `count` modules from everywhere in the list; all of them for 0."""
    if not 0 < count < len(modules):
        return modules
    return [modules[i * len(modules) // count] for i in range(count)]


def write_pair(shapes: Shapes, source: Path, target: Path) -> None:
    """Two checkpoints side by side, a chunk of random numbers at a time."""
    weights, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    with source.open("wb") as source_file, target.open("wb") as target_file:
        for file in (source_file, target_file):
            file.write(file_header(shapes))
        for shape in shapes.values():
            scale = max(math.prod(shape[1:]), 1) ** -0.5
            left = math.prod(shape)
            while left > 0:
                count = min(left, CHUNK)
                chunk = torch.randn(count, generator=weights).mul_(scale)
                _append(source_file, chunk)
                _append(target_file, chunk + torch.randn(count, generator=noise) * scale * NOISE)
                left -= count


def write_child(child: Child, source: Path, target: Path) -> None:
    """A UNet whose every weight is one of the source's with noise on it."""
    noise = torch.Generator().manual_seed(1)
    parents = origins(child, any_of)
    shapes = {f"{UNET}{key}": shape for key, shape in unet(child.figures).items()}
    with safe_open(source, framework="pt") as parent, target.open("wb") as file:
        file.write(file_header(shapes))
        for key, shape in shapes.items():
            weight = parent.get_tensor(UNET + parents[key.removeprefix(UNET)]).float()
            scale = NOISE * max(math.prod(shape[1:]), 1) ** -0.5
            _append(file, weight + torch.randn(shape, generator=noise) * scale)


def _append(file: BinaryIO, numbers: torch.Tensor) -> None:
    file.write(numbers.half().numpy().tobytes())


def write_lora(modules: Sequence[LoraModule], path: Path) -> None:
    """A LoRA in kohya's layout."""
    random = torch.Generator().manual_seed(2)
    tensors = {}
    for module in modules:
        up = torch.randn(module.m, RANK, generator=random) * 0.02
        down = torch.randn(RANK, module.n, generator=random) * module.n**-0.5
        tensors[f"{module.name}.lora_up.weight"] = up.half()
        tensors[f"{module.name}.lora_down.weight"] = down.half()
        tensors[f"{module.name}.alpha"] = torch.tensor(float(RANK))
    save_file(tensors, path)


def watch(command: Sequence[str]) -> Run:
    """Runs a command in the repository and samples its memory.

    The kernel's own high-water mark is read, so no peak is missed but one of the last 50 ms; what
    getrusage says of a child would include the memory of this process at the moment of the fork.
    """
    start, peak, peak_own = time.monotonic(), 0, 0
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            memory = _memory(process.pid)
            peak = max(peak, memory.get("VmHWM", 0))
            peak_own = max(peak_own, memory.get("RssAnon", 0))
            time.sleep(0.05)
    if process.returncode != 0:
        raise SystemExit(f"the transfer ended with exit code {process.returncode}")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(time.monotonic() - start, usage.ru_utime + usage.ru_stime, peak, peak_own)


def _memory(pid: int) -> dict[str, int]:
    """The Vm and Rss lines of a process, in bytes; none once it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split() for line in lines if line.startswith(("Vm", "Rss")))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in pairs}


def _command(files: Files, mode: str, device: str) -> list[str]:
    return [
        *(sys.executable, "-m", "prolora", "transfer", str(files.lora)),
        *("--source", str(files.source), "--target", str(files.target)),
        *("-o", str(files.out), "--mode", mode, "--device", device),
    ]


def _print_table(shapes: Shapes, modules: Sequence[LoraModule], files: Files, run: Run) -> None:
    size = {path: path.stat().st_size for path in files}
    rows = (
        ("a checkpoint", f"{size[files.source] / 1e9:.2f} GB, {len(shapes)} tensors"),
        ("the LoRA", f"{size[files.lora] / 1e6:.0f} MB, {len(modules)} modules of rank {RANK}"),
        ("the result", f"{size[files.out] / 1e6:.0f} MB"),
        ("peak resident memory", f"{run.peak / 1e6:.0f} MB"),
        ("of it, without pages of files", f"{run.peak_own / 1e6:.0f} MB"),
        ("wall time", f"{run.seconds:.0f} s, {run.seconds / len(modules):.2f} s a module"),
        ("CPU time", f"{run.cpu_seconds:.0f} s, {run.cpu_seconds / len(modules):.2f} s a module"),
        ("threads, torch", f"{torch.get_num_threads()}, {torch.__version__}"),
    )
    print("\n| | |\n| --- | --- |")
    for name, value in rows:
        print(f"| {name} | {value} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="peak memory and time of an SDXL transfer")
    parser.add_argument("--folder", type=Path, help="where the files go (the system's temp)")
    parser.add_argument("--keep", action="store_true", help="keep the files, and use kept ones")
    parser.add_argument("--modules", type=int, default=60, help="how many, 0 for all 986 (60)")
    parser.add_argument("--child", choices=BY_NAME, help="a pruned child for a target")
    parser.add_argument("--mode", default="full", help="of the transfer (full)")
    parser.add_argument("--device", default="cpu", help="where the projection runs (cpu)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
