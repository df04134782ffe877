"""docs/bad_input.md: every case, and the words it gets."""

import contextlib
import io
import os
import re
from pathlib import Path

from benchmarks.evidence.tables import markdown
from prolora.errors import ProLoRAError

from . import checkpoints, commands, lists, lora_files, lora_modules, moves, pictures, recordings
from .case import Case, Table, Told

PAGE = Path(__file__).parents[3] / "docs" / "bad_input.md"
PARTS = (lora_files, lora_modules, checkpoints, moves, recordings, lists, pictures, commands)
TABLES: tuple[Table, ...] = tuple(table for part in PARTS for table in part.TABLES)


def told(case: Case, folder: Path) -> Told:
    """Does what a case does in an empty folder.

    Raises:
        AssertionError: nothing was refused.
    """
    before = Path.cwd()
    out, errors = io.StringIO(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = case.call()
    except ProLoRAError as error:
        cause = error.__cause__
        foreign = "" if cause is None or _is_ours(cause) else str(cause)
        return Told(_cut(str(error), folder), _cut(foreign, folder))
    finally:
        os.chdir(before)
    assert code in (1, 2), f"{case.what} was not refused"
    said = errors.getvalue().rstrip()
    first, *rest = said.splitlines()
    assert first.startswith("error: ") and not out.getvalue()
    assert not rest or (code == 2 and len(rest) == 1 and rest[0].startswith("see: "))
    choices = re.search(r"\(choose from .*?\)", said)  # Python writes them in two ways
    return Told(_cut(said, folder), choices.group() if choices else "")


def _is_ours(error: BaseException) -> bool:
    return isinstance(error, ProLoRAError) or type(error).__module__.startswith("prolora")


def _cut(text: str, folder: Path) -> str:
    """Without the place of the folder, and without names of hundreds of letters."""
    text = text.replace(f"{folder}/", "").replace(str(folder), "the folder")
    return re.sub(r"x{50,}", "xxx...", text)


def cell(text: str) -> str:
    """A text in a cell of a table, where it stays what it is."""
    safe = re.sub(r"([\\`*_\[\]<>])", r"\\\1", text).replace("|", "&#124;")
    return "<br>".join(safe.splitlines())


def is_as_shown(said: Told, shown: str) -> bool:
    """Whether a cell shows what was said; foreign words may be others."""
    parts = said.text.split(said.foreign) if said.foreign else [said.text]
    return re.fullmatch(".+".join(re.escape(cell(part)) for part in parts), shown) is not None


def page(said: dict[str, Told]) -> str:
    """The tables of docs/bad_input.md.

    Args:
        said: a case's title and words -> what it was told; see key_of.
    """
    return "\n\n".join(_section(table, said) for table in TABLES)


def key_of(table: Table, case: Case) -> str:
    return f"{table.title}: {case.what}"


def _section(table: Table, said: dict[str, Told]) -> str:
    rows = [[case.what, table.where, cell(said[key_of(table, case)].text)] for case in table.cases]
    text = markdown(["what is wrong", "where", "the words that it gets"], rows)
    return f"## {table.title}\n\n{text.strip()}"
