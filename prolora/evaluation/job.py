"""The job: every row of pictures before every judge whose weights are named, a judge at a time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor

from ..errors import ProLoRAError, bullets
from ..progress import Progress, silent
from .figures import Figure
from .judges.judge import Judge, Reader
from .measures import JUDGES, MEASURES, Measure, Seen
from .pictures import about_sizes, check_pictures, read_picture
from .prompts import Prompts
from .weights import BY_OPTION, check_weights

Item = TypeVar("Item")

_AT_ONCE = 16  # pictures before a judge
_SEEN = 224  # pixels, the side of what most judges look at
FEW = 30  # pictures, below which the difference of two rows is mostly chance


@dataclass(frozen=True)
class Task:
    """What is to be judged.

    Attributes:
        rows: name -> its pictures.
        reference: the pictures to compare with; none where there are none.
        weights: option -> the file or folder that was named for it.
    """

    rows: Mapping[str, Sequence[Path]]
    reference: Sequence[Path]
    prompts: Prompts
    weights: Mapping[str, Path]
    device: torch.device


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        counts: row -> how many pictures it has.
        reference: how many pictures the reference has.
        figures: measure -> row -> its figure.
        left_out: measure, or "measure of row" -> why.
        notes: what else one has to know of the pictures.
    """

    counts: Mapping[str, int]
    reference: int
    figures: Mapping[str, Mapping[str, Figure]]
    left_out: Mapping[str, str]
    notes: Sequence[str]


def reasons(task: Task) -> dict[str, str]:
    """Why measures are left out: name -> what is missing."""
    found: dict[str, str] = {}
    for measure in MEASURES:
        if measure.option not in task.weights:
            found[measure.name] = BY_OPTION[measure.option].advice
        elif measure.needs_reference and not task.reference:
            found[measure.name] = "it needs --reference FOLDER"
        elif measure.needs_prompts and task.prompts.missing:
            found[measure.name] = task.prompts.missing
    return found


def evaluate(task: Task, progress: Progress = silent) -> Evaluation:
    """Judges all rows.

    Raises:
        ProLoRAError: nothing can be measured, or a picture, a weight or a library is wrong.
    """
    left_out = reasons(task)
    measures = [measure for measure in MEASURES if measure.name not in left_out]
    if not measures:
        raise _nothing(left_out)
    for option, path in task.weights.items():
        check_weights(path, BY_OPTION[option])
    notes = _notes(task)
    figures: dict[str, dict[str, Figure]] = {measure.name: {} for measure in measures}
    by_judge: dict[str, list[Measure]] = {}
    for measure in measures:
        by_judge.setdefault(measure.option, []).append(measure)
    for option, its in by_judge.items():
        for row, seen in _seen_by(option, its, task, progress):
            for measure in its:
                found = measure.of(seen)
                if isinstance(found, Figure):
                    figures[measure.name][row] = found
                else:
                    left_out[f"{measure.name} of {row}"] = found
    if not any(figures.values()):
        raise _nothing(left_out)
    counts = {row: len(pictures) for row, pictures in task.rows.items()}
    return Evaluation(counts, len(task.reference), figures, left_out, notes)


def _nothing(left_out: Mapping[str, str]) -> ProLoRAError:
    lines = bullets(f"{name}: {why}" for name, why in left_out.items())
    return ProLoRAError("\n".join(("Nothing can be measured:", *lines)))


def _notes(task: Task) -> list[str]:
    """What is to be said of the pictures; all of them are read for it."""
    every = dict.fromkeys(path for pictures in task.rows.values() for path in pictures)
    notes = about_sizes(check_pictures(every | dict.fromkeys(task.reference)), _SEEN)
    sizes = {len(pictures) for pictures in task.rows.values()}
    if len(sizes) > 1:
        notes.append("The rows have different numbers of pictures: not the same seeds.")
    if min(sizes) < FEW:
        notes.append(f"With fewer than {FEW} pictures a row, small differences are chance.")
    same = {path.resolve() for path in task.reference}
    notes += [
        f"{row} is the reference itself; its likeness says how alike its pictures are."
        for row, pictures in task.rows.items()
        if same and same == {path.resolve() for path in pictures}
    ]
    return notes


def _seen_by(
    option: str, measures: Sequence[Measure], task: Task, progress: Progress
) -> Iterable[tuple[str, Seen]]:
    """Every row as a judge describes it; the judge is gone afterwards."""
    with_reference = any(measure.needs_reference for measure in measures)
    with_prompts = any(measure.needs_prompts for measure in measures)
    total = sum(map(len, task.rows.values())) + with_reference * len(task.reference)
    done = 0
    progress(done, total, f"loading {option}")
    judge = JUDGES[option](task.weights[option], task.device)

    def describe(paths: Sequence[Path], name: str) -> Tensor:
        nonlocal done
        found = []
        for some in _batches(paths):
            progress(done, total, f"{option}, {name}")
            found.append(judge.pictures([read_picture(path) for path in some]))
            done += len(some)
        return _whole(torch.cat(found), option, name)

    reference = describe(task.reference, "reference") if with_reference else None
    for row, paths in task.rows.items():
        texts = task.prompts.of.get(row, ())
        prompts = _read(judge, texts, option) if with_prompts else None
        names = [path.name for path in paths]
        yield row, Seen(judge, names, describe(paths, row), reference, prompts, texts)
    progress(total, total, "")


def _read(judge: Judge, texts: Sequence[str], option: str) -> Tensor:
    """The descriptor of every text; each different one is read once."""
    different = list(dict.fromkeys(texts))
    read = [cast(Reader, judge).prompts(some) for some in _batches(different)]
    found = _whole(torch.cat(read), option, "the prompts")
    return found[torch.tensor([different.index(text) for text in texts])]


def _whole(described: Tensor, option: str, name: str) -> Tensor:
    """Refuses descriptors that are no numbers: of them nothing can be counted."""
    if not described.isfinite().all():
        raise ProLoRAError(
            f"--{option} gives no finite numbers for {name}. Its weights are broken; take the ones "
            f"that are published: {BY_OPTION[option].advice}."
        )
    return described


def _batches(items: Sequence[Item]) -> Iterable[Sequence[Item]]:
    return (items[i : i + _AT_ONCE] for i in range(0, len(items), _AT_ONCE))
