"""What a library of LoRAs is to become: a row for each, from a table or from a folder.

A table is CSV with a header, or JSON lines: `lora`, `source`, `target`, `out`, and what a transfer
lets one choose. What a row does not say is as the call has it. Paths are relative to the table.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..adapters import FILE_DTYPES
from ..adapters.peft_folder import is_adapter_folder
from ..errors import ProLoRAError, truncated_list
from ..files.json_text import parse_json
from ..files.names import check_name
from ..files.texts import read_text
from ..naming.output_names import CHOICES
from ..pairing.block_pairs import read_pairs
from ..transfer.modes import mode_named
from ..transfer.saving import FileForm, lora_path, moved_name
from ..transfer.settings import DEFAULTS, TransferSettings


@dataclass(frozen=True)
class Choices:
    """What may be chosen for a row; the fields are the columns.

    Attributes:
        energy: TransferSettings.subspace_energy.
        pairs: a file of block pairs.
        naming, dtype: see FileForm.

    Raises:
        ProLoRAError: a value is out of its range.
    """

    mode: str = DEFAULTS.mode
    threshold: float = DEFAULTS.threshold
    energy: float = DEFAULTS.subspace_energy
    rank: int = DEFAULTS.rank
    unserved: float = DEFAULTS.unserved
    pairs: Path | None = None
    naming: str = FileForm.naming
    dtype: str = FileForm.dtype

    def __post_init__(self) -> None:
        self._settings({})
        if mode_named(self.mode).needs_recording:
            raise ProLoRAError(
                f"Mode {self.mode} needs a recording, and models that run: use the nodes in "
                "ComfyUI."
            )
        for name, value, known in (
            ("naming", self.naming, CHOICES),
            ("dtype", self.dtype, FILE_DTYPES),
        ):
            if value not in known:
                raise ProLoRAError(
                    f"There is no {name} {value!r}. Choose one of: {', '.join(known)}."
                )

    def settings(self) -> TransferSettings:
        """Of the transfer, on the CPU.

        Raises:
            ProLoRAError: the pairs cannot be read.
        """
        return self._settings({} if self.pairs is None else read_pairs(self.pairs))

    def _settings(self, pairs: Mapping[str, str | None]) -> TransferSettings:
        return TransferSettings(
            mode=self.mode,
            threshold=self.threshold,
            subspace_energy=self.energy,
            rank=self.rank,
            unserved=self.unserved,
            pairs=pairs,
        )

    @property
    def form(self) -> FileForm:
        return FileForm(self.dtype, self.naming)


@dataclass(frozen=True)
class Row:
    """A LoRA to be moved.

    Attributes:
        place: of the row, for messages.
    """

    place: str
    lora: Path
    source: Path
    target: Path
    out: Path
    choices: Choices = Choices()


@dataclass(frozen=True)
class Call:
    """What rows have that do not say it themselves.

    Attributes:
        out_dir: where files go whose names are not given; None for the table's folder.
    """

    source: Path | None = None
    target: Path | None = None
    out_dir: Path | None = None
    choices: Choices = field(default_factory=Choices)


_PATHS = ("lora", "source", "target", "out")
_READ: Mapping[str, Any] = {
    **dict.fromkeys(("mode", "naming", "dtype"), str),
    **dict.fromkeys(("threshold", "energy", "unserved"), float),
    "rank": int,
}
_COLUMNS = (*_PATHS, *(field.name for field in fields(Choices)))
_A_ROW = 'Write a row as {"lora": "a.safetensors"}.'
_KINDS = {float: "number", int: "whole number"}


def read_manifest(path: Path, call: Call) -> list[Row]:
    """The rows of a table.

    Raises:
        ProLoRAError: it cannot be read; it has no rows, or unknown columns; a value is missing or
            not one; or two rows, or a row and what is read, have one file.
    """
    text = read_text(path)
    read = _json_lines if text.lstrip().startswith("{") else _csv_lines
    folder = path.absolute().parent
    rows = [
        _row(f"{path.name}, line {line}", cells, folder, call) for line, cells in read(text, path)
    ]
    if not rows:
        raise ProLoRAError(
            f"{path} has no rows. Name the columns in its first line (lora, ...), and write a LoRA "
            "into each line below it."
        )
    return checked(rows, path)


def rows_of_folder(folder: Path, pattern: str, call: Call) -> list[Row]:
    """A row for each LoRA of a folder that the pattern fits, but for those that others become.

    Args:
        pattern: as `*.safetensors`, or `**/*.safetensors` for its folders as well, which the files
            that are written lie in too.

    Raises:
        ProLoRAError: there is none, or see read_manifest.
    """
    if not folder.is_dir():
        raise ProLoRAError(f"{folder} is no folder. Name one that LoRAs lie in.")
    try:
        found = sorted(path for path in folder.absolute().glob(pattern) if _is_lora(path))
    except (ValueError, NotImplementedError) as error:
        raise ProLoRAError(
            f"{pattern!r} is no pattern of files: {error}. Write one such as *.safetensors."
        ) from error
    if not found:
        raise ProLoRAError(
            f"There is no file in {folder} that {pattern} fits. Choose another pattern."
        )
    rows = []
    for lora in found:
        parent = lora.relative_to(folder.absolute()).parent
        own = replace(call, out_dir=None if call.out_dir is None else call.out_dir / parent)
        rows.append(_row(str(lora), {"lora": str(lora)}, lora.parent, own))
    made = {row.out.resolve() for row in rows}
    return checked([row for row in rows if row.lora.resolve() not in made], None)


def _is_lora(path: Path) -> bool:
    return path.is_file() or is_adapter_folder(path)


def _csv_lines(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Line and cells, of commas, or of semicolons as some countries' spreadsheets write them."""
    head = text.lstrip().partition("\n")[0]
    delimiter = ";" if ";" in head and "," not in head else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        _check_columns(reader.fieldnames or (), f"{path.name}, line 1")
        for cells in reader:
            if None in cells or None in cells.values():
                raise ProLoRAError(
                    f"{path.name}, line {reader.line_num}: it has not as many cells as line 1. A "
                    f"name with a {delimiter} in it stands in quotes."
                )
            yield reader.line_num, {name.strip(): cell for name, cell in cells.items()}
    except csv.Error as error:
        place = f"{path.name}, line {reader.line_num}"
        raise ProLoRAError(f"{place}: {error}. Is a quote left open?") from error


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path.name}, line {number}"
        try:
            cells = parse_json(line)
        except ValueError as error:
            raise ProLoRAError(f"{place}: this is no JSON ({error}). {_A_ROW}") from error
        if not isinstance(cells, dict):
            raise ProLoRAError(f"{place}: this is no row. {_A_ROW}")
        _check_columns(cells, place)
        for name, value in cells.items():
            if isinstance(value, (bool, list, dict)):
                raise ProLoRAError(f"{place}: {name} is {value!r}, which is no text and no number.")
        yield number, {name: "" if cell is None else str(cell) for name, cell in cells.items()}


def _check_columns(names: Any, place: str) -> None:
    names = [name.strip() for name in names]
    unknown = [repr(name) for name in names if name not in _COLUMNS]
    if unknown or len(set(names)) < len(names):
        what = f"no column is called {', '.join(truncated_list(unknown, 4))}"
        raise ProLoRAError(
            f"{place}: {what if unknown else 'a column is there twice'}. They are: "
            f"{', '.join(_COLUMNS)}."
        )


def _row(place: str, cells: Mapping[str, str], folder: Path, call: Call) -> Row:
    try:
        return _said(place, cells, folder, call)
    except ProLoRAError as error:
        raise ProLoRAError(f"{place}: {error}") from None


def _said(place: str, cells: Mapping[str, str], folder: Path, call: Call) -> Row:
    said = {name: cell.strip() for name, cell in cells.items() if cell.strip()}
    paths = {name: check_name(folder / said[name]) for name in (*_PATHS, "pairs") if name in said}
    lora = paths.get("lora")
    source, target = paths.get("source", call.source), paths.get("target", call.target)
    if lora is None or source is None or target is None:
        ends = {"lora": lora, "source": source, "target": target}
        missing = " and ".join(name for name, path in ends.items() if path is None)
        for_all = "" if lora is None else ", or name it for all rows with --source and --target"
        raise ProLoRAError(f"it names no {missing}. Fill in the column{for_all}.")
    chosen = {name: _value(name, text) for name, text in said.items() if name in _READ}
    pairs = paths.get("pairs", call.choices.pairs)
    choices = replace(call.choices, **chosen, pairs=pairs and pairs.absolute())
    out = (call.out_dir or folder) / moved_name(lora, target)
    out = check_name(lora_path(paths.get("out", out), lora))
    lora, source, target, out = (path.absolute() for path in (lora, source, target, out))
    return Row(place, lora, source, target, out, choices)


def _value(name: str, text: str) -> Any:
    kind = _READ[name]
    try:
        return kind(text)
    except ValueError:
        raise ProLoRAError(f"{name} is {text!r}, which is no {_KINDS[kind]}.") from None


def checked(rows: list[Row], manifest: Path | None) -> list[Row]:
    """The rows, whose files are apart from each other and from all that is read.

    Raises:
        ProLoRAError: they are not.
    """
    read = {} if manifest is None else {manifest.resolve(): "the manifest"}
    for row in rows:
        read |= {path.resolve(): str(path) for path in (row.lora, row.source, row.target)}
    made: dict[Path, Row] = {}
    for row in rows:
        out = row.out.resolve()
        if out in read:
            raise ProLoRAError(
                f"{row.place}: {row.out} would be written, and is read ({read[out]}). Choose "
                "another name."
            )
        if out in made:
            raise ProLoRAError(
                f"{row.place}: {row.out} is written for {made[out].place} as well. Give one of "
                "them another name, in the column out."
            )
        made[out] = row
    return rows
