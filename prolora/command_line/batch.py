"""`prolora batch`: moves a library of LoRAs."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ..batch.chunk import Run, chunks_of, look_at_chunk
from ..batch.engines import ENGINES
from ..batch.manifest import Call, Row, read_manifest, rows_of_folder
from ..batch.table import DONE, FAILED, MOVED, WAITING, Outcome, Table
from ..errors import ProLoRAError, bullets, truncated_list
from ..files.atomic_write import remove_left_over
from ..progress import duration
from .arguments import add_cache, add_force, add_machine, given, output
from .choices import MODES_TOLD, add_choices, add_form, choices_of
from .command import Command
from .terminal import printed_last, progress_in

_CHUNK = 64
_LISTED = 10  # failures; the table has all
_MANIFEST = """\
the manifest is CSV with a header, or JSON lines. Its columns are lora, source, target, out, and
mode, threshold, energy, rank, unserved, pairs, naming, dtype; all but lora may be missing: then
the options count. Paths are relative to its folder.

A row is done when its file is there and was made from these files and settings, which its header
tells: the same call goes on where an earlier one ended, by whatever. Rows that failed are tried
again. The table has a row for each, and says why one failed; the exit status is 1 then.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "manifest", type=Path, nargs="?", metavar="MANIFEST", help="the LoRAs to move, see below"
    )
    what.add_argument("--loras", type=Path, metavar="DIR", help="or all LoRAs of a folder")
    parser.add_argument(
        "--pattern",
        default="*.safetensors",
        help="which files of --loras; **/*.safetensors goes into its folders (%(default)s)",
    )
    parser.add_argument("--source", type=Path, metavar="CKPT", help="what they were trained on")
    parser.add_argument("--target", type=Path, metavar="CKPT", help="what they are to be used on")
    parser.add_argument(
        "--out-dir",
        type=Path,
        metavar="DIR",
        help='the folder for "LORA for TARGET.safetensors" (the folder of the manifest or LoRAs)',
    )
    parser.add_argument(
        "--table",
        type=output,
        metavar="CSV",
        help='the table of results ("MANIFEST results.csv" or "DIR/results.csv")',
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would become of every row, and write nothing",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="here",
        help="who moves them: this process, or a Ray cluster (%(default)s)",
    )
    parser.add_argument(
        "--chunk",
        type=_positive,
        default=_CHUNK,
        metavar="N",
        help="LoRAs that are moved together at most (%(default)s)",
    )
    add_choices(parser)
    add_form(parser)
    add_machine(parser)
    add_cache(parser)
    add_force(parser)


def _run(options: argparse.Namespace) -> None:
    rows = _rows(options)
    table = _table_of(options, rows)
    digests = table.with_name(f"{table.stem} digests.json")
    run = Run(
        options.device,
        digests,
        options.workers,
        options.memory,
        cache=options.cache and options.cache.absolute(),
        cache_bytes=options.cache_gb,
        force=options.force,
    )
    if options.dry_run:
        _look(rows, run, options.chunk)
    else:
        _move(rows, run, Table(table, rows, options.force), options)


def _rows(options: argparse.Namespace) -> list[Row]:
    choices = choices_of(options)
    choices = replace(choices, pairs=choices.pairs and choices.pairs.absolute())
    source, target, out_dir = (
        path and path.absolute() for path in (options.source, options.target, options.out_dir)
    )
    call = Call(source, target, out_dir, choices)
    if options.loras is not None:
        return rows_of_folder(options.loras, options.pattern, call)
    return read_manifest(options.manifest, call)


def _table_of(options: argparse.Namespace, rows: Sequence[Row]) -> Path:
    """The path of the table; ProLoRAError if it is that of another file of the job."""
    table: Path | None = options.table
    if table is None and options.loras is not None:
        table = (options.out_dir or options.loras) / "results.csv"
    elif table is None:
        table = options.manifest.with_name(f"{options.manifest.stem} results.csv")
    files = {path for row in rows for path in (row.lora, row.source, row.target, row.out)}
    if table.resolve() in {path.resolve() for path in (*files, *given(options.manifest))}:
        raise ProLoRAError(f"{table} is named twice. Choose another name with --table.")
    return table


def _look(rows: Sequence[Row], run: Run, most: int) -> None:
    chunks = chunks_of(rows, most)
    with progress_in("MB") as progress:
        outcomes = [o for chunk in chunks for o in look_at_chunk(chunk, run, progress)]
    words = {WAITING: "would be moved", DONE: "is done already", FAILED: "cannot be moved"}
    of_row = {outcome.out: outcome for outcome in outcomes}
    with printed_last() as said:
        for row in rows:
            outcome = of_row[str(row.out)]
            why = f": {outcome.message}" if outcome.message else ""
            said.append(f"{row.lora}: {words[outcome.status]}{why}")
        groups = "1 group" if len(chunks) == 1 else f"{len(chunks)} groups"
        said.append(_counted(outcomes, words))
        said.append(f"they are {groups} of one pair of models and one choice of settings")
    _refuse_failed(outcomes, "cannot be moved. Nothing was written.")


def _move(rows: Sequence[Row], run: Run, table: Table, options: argparse.Namespace) -> None:
    table.add([])  # a folder that cannot be written to is known before the job
    for folder in {row.out.parent for row in rows}:
        remove_left_over(folder)
    engine = ENGINES[options.engine]
    chunks = chunks_of(rows, options.chunk)
    started = time.monotonic()
    with printed_last() as said:
        with progress_in("module") as moving, progress_in("LoRA") as writing:
            for outcomes in engine(chunks, run, moving, writing):
                table.add(outcomes)
                _tell(table.outcomes, time.monotonic() - started)
        failures = [o for o in table.outcomes if o.status == FAILED]
        lines = [f"{outcome.lora}: {outcome.message}" for outcome in failures]
        said += [_counted(table.outcomes), *bullets(truncated_list(lines, _LISTED))]
        said.append(f"wrote {table.path}")
    _refuse_failed(table.outcomes, f"were not moved; {table.path} says why.")


def _counted(outcomes: Sequence[Outcome], words: Mapping[str, str] | None = None) -> str:
    counts = Counter((words or {}).get(o.status, o.status) for o in outcomes)
    parts = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{len(outcomes)} LoRAs: {parts}"


def _tell(outcomes: Sequence[Outcome], seconds: float) -> None:
    """How far the whole is, beside the progress of what is at work."""
    left = sum(outcome.status == WAITING for outcome in outcomes)
    moved = sum(outcome.status == MOVED for outcome in outcomes)
    time_left = f", about {duration(seconds / moved * left)} left" if moved and left else ""
    with suppress(BrokenPipeError):  # nobody reads; the job goes on
        tqdm.write(f"{_counted(outcomes)}{time_left}", file=sys.stderr)


def _refuse_failed(outcomes: Sequence[Outcome], what: str) -> None:
    failed = sum(outcome.status == FAILED for outcome in outcomes)
    if failed:
        raise ProLoRAError(f"{failed} of {len(outcomes)} LoRAs {what}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


COMMAND = Command(
    "batch",
    "move a library of LoRAs, and go on where it was stopped",
    "library.csv --source trained_on.safetensors \\\n"
    "      --target other.safetensors --out-dir moved",
    _add_arguments,
    _run,
    more=f"{_MANIFEST}\n{MODES_TOLD}",
)
