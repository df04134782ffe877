"""Read-outs of a source's modules, and the inputs of a target's layers at the same positions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..models.references import WeightRef
from ..progress import Progress
from .layers import Place, why_not_heard
from .listening import Examples, listen
from .recording import ReadOut


@dataclass(frozen=True)
class Heard:
    """A module that is to be heard.

    Attributes:
        name: the module of the LoRA.
        ref: its weight in the source.
        down: r x n, float32.
        keeps_down: whether the recording must keep it; see ReadOut.
    """

    name: str
    ref: WeightRef
    down: torch.Tensor
    keeps_down: bool


def record_readouts(
    modules: Sequence[Heard],
    layers: Mapping[str, nn.Module],
    examples: Examples,
    positions: int,
    seed: int,
    progress: Progress,
) -> tuple[dict[str, ReadOut], dict[str, str]]:
    """Runs the source and keeps what its modules read at positions drawn at random.

    Args:
        positions: for each module in all; every example has as many of them.

    Returns:
        The read-outs, and why a module has none.
    """
    left_out = {m.name: why_not_heard(m.ref, layers) for m in modules}
    heard = {m.name: m for m in modules if not left_out[m.name]}
    places = {name: Place(m.ref, layers[m.ref.key]) for name, m in heard.items()}
    each = -(-positions // examples.count)
    found: dict[str, list[ReadOut]] = defaultdict(list)
    generator = torch.Generator().manual_seed(seed)

    def take(name: str, example: int, place: Place, inputs: torch.Tensor) -> None:
        count = place.count(inputs)
        drawn = torch.randperm(count, generator=generator)[:each].int()
        rows = place.rows(inputs, drawn.long())
        values = (rows @ heard[name].down.to(rows.device).T).cpu()
        of, counts = (torch.full_like(drawn, number) for number in (example, count))
        found[name].append(ReadOut(of, drawn, counts, values))

    listen(places, examples, take, progress)
    readouts = {
        name: ReadOut(
            examples=torch.cat([part.examples for part in parts]),
            positions=torch.cat([part.positions for part in parts]),
            counts=torch.cat([part.counts for part in parts]),
            values=torch.cat([part.values for part in parts]),
            down=heard[name].down.cpu() if heard[name].keeps_down else None,
        )
        for name, parts in found.items()
    }
    silent = {name: "its layer did not run" for name in heard if name not in found}
    return readouts, {name: why for name, why in left_out.items() if why} | silent


def collect_inputs(
    places: Mapping[str, Place],
    readouts: Mapping[str, ReadOut],
    examples: Examples,
    progress: Progress,
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Runs the target and keeps its inputs, p x n on the CPU, where the source was heard.

    Args:
        places: of the target's layers, by any names.
        readouts: by the same names.

    Returns:
        The inputs, and why a place has none: its layer does not run, or runs on other positions
        than the source's, which then are of other tokens.
    """
    found: dict[str, dict[int, torch.Tensor]] = defaultdict(dict)
    misfits: dict[str, str] = {}

    def take(name: str, example: int, place: Place, inputs: torch.Tensor) -> None:
        readout, count = readouts[name], place.count(inputs)
        here = readout.examples == example
        if not here.any() or name in misfits:
            return
        before = int(readout.counts[here][0])
        if count != before:
            misfits[name] = f"its layer has {count} positions here and {before} in the source"
            found.pop(name, None)
            return
        found[name][example] = place.rows(inputs, readout.positions[here].long()).cpu()

    listen(places, examples, take, progress)
    inputs = {}
    for name in places:
        wanted = dict.fromkeys(readouts[name].examples.tolist())
        if name not in misfits and wanted.keys() <= found[name].keys():
            inputs[name] = torch.cat([found[name][example] for example in wanted])
        elif name not in misfits:
            misfits[name] = "its layer did not run"
    return inputs, misfits
