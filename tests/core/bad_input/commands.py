"""Commands that are refused, in folders of good and bad files."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from prolora.command_line import main

from ..command_line_files import arguments, write_files
from .case import Case, Table

USAGE, ERROR = 2, 1


@dataclass(frozen=True)
class Refused:
    """A command that is refused.

    Attributes:
        what: what is wrong with it, in plain words.
        words: the command; of a transfer what is added to one that would succeed (the last of two
            equal options counts).
        code: that it ends with.
        says: a part of the error.
    """

    what: str
    words: str
    code: int
    says: str


def write_good_and_bad_files(folder: Path) -> None:
    write_files(folder)
    (folder / "folder").mkdir()
    (folder / "page.safetensors").write_bytes(b"<html>")
    (folder / "empty.safetensors").write_bytes(b"")
    torch.save({"a": torch.ones(1)}, folder / "pickle.safetensors")
    (folder / "pairs.json").write_text("blocks.0: blocks.1")
    os.mkfifo(folder / "pipe.safetensors")


TRANSFERS = (
    Refused(
        "a source that does not exist",
        "--source absent.safetensors",
        ERROR,
        "absent.safetensors does not exist",
    ),
    Refused(
        "a target that does not exist",
        "--target absent.safetensors",
        ERROR,
        "absent.safetensors does not exist",
    ),
    Refused("a folder without a model as the target", "--target folder", ERROR, "folder"),
    Refused(
        "a page of the web as the source",
        "--source page.safetensors",
        ERROR,
        "page.safetensors is not a readable safetensors file",
    ),
    Refused(
        "an empty file as the source",
        "--source empty.safetensors",
        ERROR,
        "empty.safetensors is empty (0 bytes)",
    ),
    Refused(
        "a pickle as the source",
        "--source pickle.safetensors",
        ERROR,
        "pickle.safetensors is a pickle",
    ),
    Refused(
        "the LoRA as the source",
        "--source style.safetensors",
        ERROR,
        "style.safetensors is a LoRA, not a checkpoint",
    ),
    Refused(
        "the LoRA as the target",
        "--target style.safetensors",
        ERROR,
        "style.safetensors is a LoRA, not a checkpoint",
    ),
    Refused(
        "one checkpoint as both", "--source b.safetensors", ERROR, "is named for both checkpoints"
    ),
    Refused(
        "a threshold above 1",
        "--threshold 1.5",
        USAGE,
        "The threshold is 1.5; choose one from 0 to 1",
    ),
    Refused("a threshold below 0", "--threshold -0.1", USAGE, "The threshold is -0.1"),
    Refused("a threshold that is not a number", "--threshold nan", USAGE, "The threshold is nan"),
    Refused("an endless threshold", "--threshold inf", USAGE, "The threshold is inf"),
    Refused("a number with a comma", "--threshold 0,5", USAGE, "'0,5' is no number"),
    Refused("an energy of 0", "--energy 0", USAGE, "The subspace energy is 0.0"),
    Refused("an energy of 1", "--energy 1", USAGE, "The subspace energy is 1.0"),
    Refused("an energy that is not a number", "--energy nan", USAGE, "The subspace energy is nan"),
    Refused("a share above 1", "--unserved 2", USAGE, "The share for unserved blocks is 2.0"),
    Refused(
        "a share that is not a number",
        "--unserved nan",
        USAGE,
        "The share for unserved blocks is nan",
    ),
    Refused(
        "a rank below 0", "--rank -1", USAGE, "The rank is -1; choose 0 for the source's, or more"
    ),
    Refused("a rank with a fraction", "--rank 1.5", USAGE, "'1.5' is no whole number"),
    Refused("a rank that is not a number", "--rank nan", USAGE, "'nan' is no whole number"),
    Refused("a rank that no module can have", "--rank 9", ERROR, "Choose a rank up to 8"),
    Refused(
        "a mode that there is not", "--mode all", USAGE, "no mode 'all'. Choose one of: auto, "
    ),
    Refused(
        "a mode that needs models that run",
        "--mode calibrated",
        USAGE,
        "needs a recording, and models that run",
    ),
    Refused("a precision that there is not", "--dtype fp8", USAGE, "invalid choice: 'fp8'"),
    Refused("a naming that there is not", "--naming mine", USAGE, "invalid choice: 'mine'"),
    Refused(
        "a device that nobody has",
        "--device nonsense",
        USAGE,
        "'nonsense' is no device. Choose auto, cpu, cuda",
    ),
    Refused(
        "a device that cannot compute",
        "--device meta",
        USAGE,
        "the device meta is not there, or cannot compute in float64",
    ),
    Refused(
        "an accelerator that is not there", "--device hpu", USAGE, "the device hpu is not there"
    ),
    Refused("a hundredth GPU", "--device cuda:99", USAGE, "the device cuda:99 is not there"),
    Refused("pairs that do not exist", "--pairs absent.json", ERROR, "absent.json does not exist"),
    Refused("pairs that are no JSON", "--pairs pairs.json", ERROR, "pairs.json: this is no JSON"),
    Refused("a folder to write to", "-o folder", ERROR, "folder is a folder. Name a file in it"),
    Refused("a new folder to write to", "-o new/", ERROR, "new/ is a folder. Name a file in it"),
    Refused(
        "a file as the folder to write to",
        "-o a.safetensors/x.safetensors",
        ERROR,
        "x.safetensors could not be saved in a.safetensors",
    ),
    Refused(
        "a file that is read as the one to write", "-o a", ERROR, "a.safetensors is named twice"
    ),
    Refused("a pipe to write to", "-o pipe", ERROR, "pipe.safetensors is no ordinary file"),
    Refused("a name of 300 letters", f"-o {'x' * 300}", ERROR, "File name too long"),
    Refused(
        "a folder of the system to write to",
        "-o /proc/x",
        ERROR,
        "x.safetensors could not be saved in /proc",
    ),
    Refused(
        "a report that exists",
        "--report page.safetensors",
        ERROR,
        "exists. Choose another name, or overwrite it with --for",
    ),
    Refused(
        "the result's own name for the report",
        "--report out.safetensors",
        ERROR,
        "Choose another name",
    ),
    Refused(
        "a folder as the report", "--report folder", ERROR, "folder is a folder. Name a file in it"
    ),
    Refused("an option that there is not", "--unknown", USAGE, "unrecognized arguments: --unknown"),
)
OTHERS = (
    Refused("no command", "", USAGE, "required: COMMAND"),
    Refused("a command that there is not", "move", USAGE, "invalid choice: 'move'"),
    Refused("a transfer without models", "transfer style.safetensors", USAGE, "--source, --target"),
    Refused(
        "a LoRA that does not exist",
        "inspect absent.safetensors",
        ERROR,
        "absent.safetensors does not exist",
    ),
    Refused("a folder that is no LoRA", "inspect folder", ERROR, "folder"),
    Refused(
        "a LoRA as its own source",
        "inspect style.safetensors --source style.safetensors",
        ERROR,
        "is a LoRA, not a checkpoint",
    ),
    Refused(
        "no name for the result", "extract a.safetensors b.safetensors", USAGE, "required: -o/--out"
    ),
    Refused(
        "a checkpoint and itself",
        "extract a.safetensors a.safetensors -o x",
        ERROR,
        "is named for both checkpoints",
    ),
    Refused(
        "a LoRA as a checkpoint",
        "extract a.safetensors style.safetensors -o x",
        ERROR,
        "is a LoRA, not a checkpoint",
    ),
    Refused(
        "an energy of 0",
        "extract a.safetensors b.safetensors -o x --energy 0",
        USAGE,
        "The energy is 0.0",
    ),
    Refused(
        "an energy that is not a number",
        "extract a.safetensors b.safetensors -o x --energy nan",
        USAGE,
        "The energy is nan",
    ),
    Refused(
        "a rank below 0",
        "extract a.safetensors b.safetensors -o x --rank -1",
        USAGE,
        "The rank is -1",
    ),
    Refused(
        "a least difference of 1",
        "extract a.safetensors b.safetensors -o x --least 1",
        USAGE,
        "The least difference is 1.0",
    ),
    Refused(
        "a file that exists",
        "extract a.safetensors b.safetensors -o page",
        ERROR,
        "page.safetensors exists",
    ),
    Refused(
        "a checkpoint and itself",
        "similarity a.safetensors a.safetensors",
        ERROR,
        "is named for both checkpoints",
    ),
    Refused(
        "a LoRA as a checkpoint",
        "similarity a.safetensors style.safetensors",
        ERROR,
        "is a LoRA, not a checkpoint",
    ),
    Refused(
        "an energy of 1",
        "similarity a.safetensors b.safetensors --energy 1",
        USAGE,
        "subspace energy is 1.0",
    ),
    Refused(
        "a picture that is no PNG",
        "similarity a.safetensors b.safetensors --picture map.jpg",
        ERROR,
        "not named like one",
    ),
    Refused(
        "a folder as the table",
        "similarity a.safetensors b.safetensors --table folder",
        ERROR,
        "folder is a folder",
    ),
    Refused(
        "a file as the folder of the table",
        "similarity a.safetensors b.safetensors --table a.safetensors/x",
        ERROR,
        "could not be saved",
    ),
    Refused(
        "a device that nobody has",
        "similarity a.safetensors b.safetensors --device nonsense",
        USAGE,
        "is no device",
    ),
    Refused("pictures that do not exist", "evaluate absent", ERROR, "Name a folder of pictures"),
    Refused("a folder without pictures", "evaluate folder", ERROR, "holds no pictures"),
    Refused(
        "no library to move",
        "batch --source a.safetensors --target b.safetensors",
        USAGE,
        "MANIFEST",
    ),
    Refused(
        "a library that does not exist",
        "batch absent.csv --source a.safetensors --target b.safetensors",
        ERROR,
        "absent.csv does not exist",
    ),
    Refused(
        "chunks of nothing",
        "batch x.csv --source a.safetensors --target b.safetensors --chunk 0",
        USAGE,
        "'0' is no whole number from 1 on",
    ),
    Refused(
        "an engine that there is not",
        "batch x.csv --source a.safetensors --target b.safetensors --engine mpi",
        USAGE,
        "invalid choice: 'mpi'",
    ),
)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def run(command: list[str], code: int) -> int:
    """Among the files above, of which it leaves each as it was; it ends with this code."""
    write_good_and_bad_files(Path())
    before = contents(Path())
    try:
        found = main(command)
    except SystemExit as stop:
        found = stop.code
    assert found == code
    assert contents(Path()) == before
    return code


def case(one: Refused, command: Callable[[Refused], list[str]]) -> Case:
    shown = f"{one.words[:12]}..." if len(one.words) > 200 else one.words
    what = f"{one.what}: `{shown}`" if shown else one.what
    return Case(what, lambda: run(command(one), one.code), one.says)


OF_TRANSFER = Table(
    "A transfer on the command line",
    "`prolora transfer`",
    tuple(case(one, lambda one: [*arguments(Path()), *one.words.split()]) for one in TRANSFERS),
)
OF_OTHERS = Table(
    "Other commands",
    "`prolora`",
    tuple(case(one, lambda one: one.words.split()) for one in OTHERS),
)

TABLES = (OF_TRANSFER, OF_OTHERS)
