"""What was measured: a CSV file, a line a measurement, to which a run adds what is missing."""

import csv
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "results"
BUILD = Path("build/evidence")

Value = str | float


class Results:
    """Lines with a key and values. A line that is there is not measured again, so a run resumes.

    Args:
        path: of the CSV file, which need not exist.
        keys: the columns that together name a measurement.
        columns: the columns of values.

    Raises:
        ValueError: the file has other columns.
    """

    def __init__(self, path: Path, keys: Sequence[str], columns: Sequence[str]) -> None:
        self.path, self.keys, self.columns = path, tuple(keys), tuple(columns)
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                header = next(csv.reader(file))
            if header != [*self.keys, *self.columns]:
                raise ValueError(f"{path} has the columns {header}: move it away to measure anew")
        self._known = {tuple(row[key] for key in self.keys) for row in self.rows()}

    def known(self, *key: Value) -> bool:
        return tuple(map(str, key)) in self._known

    def add(self, *key: Value, **values: Value) -> None:
        """Writes a line at once; floats to six figures. Values that are not given stay empty."""
        if unknown := set(values) - set(self.columns):
            raise ValueError(f"{self.path} has no columns {sorted(unknown)}")
        is_new = not self.path.is_file()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            if is_new:
                table.writerow([*self.keys, *self.columns])
            table.writerow([*key, *(_written(values.get(name, "")) for name in self.columns)])
        self._known.add(tuple(map(str, key)))

    def rows(self) -> list[dict[str, str]]:
        """All lines, as they stand in the file."""
        if not self.path.is_file():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def _written(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
