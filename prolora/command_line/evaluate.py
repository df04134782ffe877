"""`prolora evaluate`: judges one's own pictures, a folder for each way of moving a LoRA."""

import argparse
from pathlib import Path

from ..errors import ProLoRAError
from ..evaluation.job import Task, evaluate
from ..evaluation.pictures import folders_of, pictures_in
from ..evaluation.plot import draw
from ..evaluation.prompts import prompts_beside, prompts_from
from ..evaluation.text import table, to_json
from ..evaluation.weights import WEIGHTS
from ..files.atomic_write import atomic_write
from .arguments import add_device, add_force, given, output
from .command import Command
from .files import check_outputs, write_and_say
from .terminal import printed_last, progress_in


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "generated",
        nargs="+",
        metavar="[NAME=]FOLDER",
        help="pictures of one way of moving the LoRA, a row of the table; or a folder whose "
        "sub-folders are the rows",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FOLDER",
        help="what they should look like: pictures of a LoRA trained anew on the target, or those "
        "that the LoRA was trained on",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="TXT",
        help="one line for all pictures, or a line for each in the order of the names; without it, "
        "the .txt beside each picture",
    )
    weights = parser.add_argument_group("weights", "a measure is made where its weights are named")
    for row in WEIGHTS:
        weights.add_argument(
            f"--{row.option}",
            type=Path,
            metavar="FOLDER" if row.folder else "FILE",
            help=f"{row.published}; {row.licence}",
        )
    parser.add_argument("--json", type=output, metavar="JSON", help="write all figures there")
    parser.add_argument("-o", "--plot", type=output, metavar="PNG", help="draw them there")
    add_device(parser)
    add_force(parser)


def _run(options: argparse.Namespace) -> None:
    weights = {w.option: path for w in WEIGHTS if (path := getattr(options, w.option)) is not None}
    named = [_named(text) for text in options.generated]
    rows = _rows(named)
    folders = [folder for _, folder in named] + given(options.reference)
    check_outputs(
        given(options.json, options.plot),
        given(*folders, options.prompts, *weights.values()),
        options.force,
    )
    if options.plot is not None:
        _check_plot(options.plot, folders)
    prompts = prompts_from(options.prompts, rows) if options.prompts else prompts_beside(rows)
    reference = pictures_in(options.reference) if options.reference else []
    task = Task(rows, reference, prompts, weights, options.device)
    with progress_in("picture") as progress:
        evaluation = evaluate(task, progress)
    with printed_last(table(evaluation)) as said:
        if options.json is not None:
            write_and_say(options.json, to_json(evaluation, task) + "\n", said)
        if options.plot is not None:
            with atomic_write(options.plot) as file:
                draw(evaluation).save(file, format="PNG")
            said.append(f"wrote {options.plot}")


def _named(text: str) -> tuple[str, Path]:
    """The name, or nothing, and the folder of NAME=FOLDER or FOLDER."""
    name, equals, folder = text.partition("=")
    if not equals or Path(text).is_dir():
        return "", Path(text)
    return name, Path(folder)


def _rows(named: list[tuple[str, Path]]) -> dict[str, list[Path]]:
    """Row -> its pictures.

    Raises:
        ProLoRAError: two rows have one name, or a folder has no pictures.
    """
    rows: dict[str, list[Path]] = {}
    for name, folder in named:
        for row, pictures in folders_of(name, folder).items():
            if row in rows:
                raise ProLoRAError(
                    f"Two folders are called {row}. Give one another name: NAME={folder}"
                )
            rows[row] = pictures
    return rows


def _check_plot(plot: Path, folders: list[Path]) -> None:
    """Before the long job, not after it."""
    if plot.suffix.lower() != ".png":
        raise ProLoRAError(f"The plot is a PNG; {plot} is not named like one. Call it X.png.")
    around = [folder.resolve() for folder in folders]
    if any(folder == plot.resolve().parent for folder in around):
        raise ProLoRAError(
            f"{plot} would lie among the pictures, and be one of them the next time. Write it to "
            "another folder."
        )


COMMAND = Command(
    "evaluate",
    "judge pictures of a LoRA that was moved in several ways",
    "output/which_mode --reference style --prompts prompts.txt \\\n"
    "      --clip clip-vit-large-patch14 -o which_mode.png",
    _add_arguments,
    _run,
    more='Nothing is fetched. The libraries: pip install "prolora[evaluate]". docs/evaluation.md '
    "says what each measure can tell.",
)
