"""Transfers on the command line, with generated files, each in a process of its own."""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from fixtures.stable_diffusion import LoraModule

from .agreement import Output
from .files import (
    CHILDREN_BY_NAME,
    RANK,
    SDXL_ITSELF,
    Library,
    add_library,
    into_page_cache,
    library_of,
    spread,
)
from .processes import ROOT, Run, prolora, watch


@dataclass(frozen=True)
class Transfers:
    """What the transfers of a benchmark have in common.

    Attributes:
        modules: of the LoRAs.
        folder: for what is written.
        mode, rank, device: see the command line's options; the rank is that of the LoRAs.
        checkouts: of this project, by what they are called in tables; ours first.
    """

    library: Library
    modules: list[LoraModule]
    folder: Path
    mode: str
    rank: int
    device: torch.device
    checkouts: dict[str, Path]

    def run(self, checkout: str, target: str, loras: Sequence[Path], threads: int) -> Run:
        """One call that moves all of these LoRAs to a model."""
        output = self.output(checkout)
        many = ("--out-dir", self.folder / checkout)
        one = ("-o", output.lora, "--report", output.report)
        command = prolora(
            *("transfer", *loras, "--mode", self.mode, "--device", str(self.device)),
            *("--source", self.library.source(), "--target", self.library.target(target)),
            *("--naming", "kohya", "--force", *(one if len(loras) == 1 else many)),
        )
        return watch(command, self.checkouts[checkout], threads, self.device)

    def loras(self, count: int) -> list[Path]:
        return self.library.loras(self.modules, count, self.rank)

    def output(self, checkout: str) -> Output:
        """Where a call for one LoRA writes."""
        return Output(self.folder / f"{checkout}.safetensors", self.folder / f"{checkout}.json")


def add_transfers(
    parser: argparse.ArgumentParser, loras: Sequence[int] = (1,), before: bool = True
) -> None:
    """The options of what is moved.

    Args:
        loras: how many, where nothing is said.
        before: whether an older checkout may be named.
    """
    add_library(parser)
    targets = [SDXL_ITSELF, *CHILDREN_BY_NAME]
    parser.add_argument("--target", nargs="+", choices=targets, default=[SDXL_ITSELF])
    many = " ".join(map(str, loras))
    parser.add_argument("--loras", type=int, nargs="+", default=loras, help=f"in a call ({many})")
    parser.add_argument("--rank", type=int, default=RANK, help="of the LoRAs (%(default)s)")
    parser.add_argument("--mode", default="full", help="(%(default)s)")
    if before:
        parser.add_argument("--before", type=Path, help="an older checkout of this project")
    else:
        parser.set_defaults(before=None)


@contextmanager
def transfers(options: argparse.Namespace) -> Iterator[Transfers]:
    """With all checkpoints there, and in the page cache."""
    library = library_of(options)
    for path in {library.source(), *map(library.target, options.target)}:
        into_page_cache(path)
    checkouts = {"ours": ROOT}
    if options.before is not None:
        checkouts["before"] = options.before.resolve()
    modules = spread(library.modules, options.modules)
    with tempfile.TemporaryDirectory(dir=library.folder) as folder:
        yield Transfers(
            library, modules, Path(folder), options.mode, options.rank, options.device, checkouts
        )
