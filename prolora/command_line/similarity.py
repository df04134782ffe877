"""`prolora similarity`: measures how similar two checkpoints are, before anything is moved."""

import argparse
from pathlib import Path

from ..comparison import text as comparison_text
from ..comparison.figures import compare
from ..comparison.heat_map import check_pillow, draw
from ..errors import ProLoRAError
from ..files.atomic_write import atomic_write
from ..named_files import load_pair
from ..pairing.block_pairs import write_pairs
from ..transfer.settings import TransferSettings
from .arguments import add_energy, add_force, add_pairs, add_workers, given, output, pairs_of
from .command import Command
from .files import check_outputs, write_and_say
from .terminal import printed_last, progress_in


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="A", help="what LoRAs were trained on")
    parser.add_argument("target", type=Path, metavar="B", help="what they are to be used on")
    parser.add_argument("--picture", type=output, metavar="PNG", help="draw a heat map there")
    parser.add_argument("--table", type=output, metavar="CSV", help="write a row for every weight")
    add_pairs(parser)
    parser.add_argument(
        "--write-pairs", type=output, metavar="JSON", help="write which block takes which there"
    )
    add_energy(parser)
    add_workers(parser)
    add_force(parser)


def _run(options: argparse.Namespace) -> None:
    check_outputs(
        given(options.picture, options.table, options.write_pairs),
        given(options.source, options.target, options.pairs),
        options.force,
    )
    settings = TransferSettings(
        subspace_energy=options.energy,
        device=options.device,
        workers=options.workers,
        pairs=pairs_of(options),
    )
    if options.picture is not None:
        _check_picture(options.picture)
    source, target = load_pair(options.source, options.target)
    with progress_in("weight") as progress:
        comparison = compare(source, target, settings, progress)
    with printed_last(comparison_text.summary(comparison)) as said:
        if options.table is not None:
            write_and_say(options.table, comparison_text.to_csv(comparison), said)
        if options.write_pairs is not None:
            write_and_say(options.write_pairs, write_pairs(comparison.pairs), said)
        if options.picture is not None:
            with atomic_write(options.picture) as file:
                draw(comparison).image.save(file, format="PNG")
            said.append(f"wrote {options.picture}")


def _check_picture(path: Path) -> None:
    """Before the long job, not after it."""
    check_pillow()
    if path.suffix.lower() != ".png":
        raise ProLoRAError(f"The picture is a PNG; {path} is not named like one. Call it X.png.")


COMMAND = Command(
    "similarity",
    "measure how similar two checkpoints are",
    "trained_on.safetensors other.safetensors --picture heat_map.png",
    _add_arguments,
    _run,
)
