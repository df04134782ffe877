"""docs/bad_input.md: every case, and the words it gets."""

import contextlib
import io
import os
import re
from pathlib import Path

from benchmarks.evidence.tables import markdown
from prolora.errors import ProLoRAError

from . import checkpoints, lists, lora_files, lora_modules, moves, recordings
from .case import Case, Table, Told

PAGE = Path(__file__).parents[3] / "docs" / "bad_input.md"
PARTS = (lora_files, lora_modules, checkpoints, moves, recordings, lists)
TABLES: tuple[Table, ...] = tuple(table for part in PARTS for table in part.TABLES)


def told(case: Case, folder: Path) -> Told:
    """Does what a case does in an empty folder.

    Raises:
        AssertionError: nothing was refused.
    """
    before = Path.cwd()
    printed = io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            code = case.call()
    except ProLoRAError as error:
        return Told(_cut(str(error), folder), _cut(str(error.__cause__ or ""), folder))
    finally:
        os.chdir(before)
    text = printed.getvalue()
    assert code in (1, 2), f"{case.what} was not refused: {text}"
    said = text[text.index("error: ") :].rstrip()
    choices = re.search(r"\(choose from .*?\)", said)  # Python writes them in two ways
    return Told(_cut(said, folder), choices.group() if choices else "")


def _cut(text: str, folder: Path) -> str:
    """Without the place of the folder."""
    return text.replace(f"{folder}/", "").replace(str(folder), "a folder")


def cell(text: str) -> str:
    """A message in a cell of a table."""
    safe = text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
    return "<br>".join(safe.splitlines())


def section(table: Table, said: dict[str, str]) -> str:
    rows = [[cell(case.what), table.where, said[case.what]] for case in table.cases]
    text = markdown(["what is wrong", "where", "the words that it gets"], rows)
    return f"## {table.title}\n\n{text.strip()}"
