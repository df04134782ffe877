"""The sections of docs/evidence.md: a picture by two models at once, and the wall clock."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from benchmarks.evidence.page import write_section
from benchmarks.evidence.tables import markdown, said
from benchmarks.recording_sdxl import passes
from benchmarks.times.measure import COUNTED, PASSES, results
from benchmarks.times.transferring import kinds

STEPS = 50  # of a sampler, X-Adapter's default; each with guidance, which makes it two passes
# The share of the steps that is left for both models: adapter_guidance_start of X-Adapter's code.
STARTS = {
    0.95: "its LoRA script",
    0.7: "the middle of its ControlNet script's",
    0.5: "its pipeline's default",
}
# Forward and backward passes of one picture each, that training a LoRA takes.
TRAINING = {
    "training, sd-scripts' default: 1600 steps of 1": 1600,
    "training, diffusers' DreamBooth example: 500 steps of 4": 2000,
}


Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Costs:
    """What the parts cost on one device, or counted, for pictures of the real size.

    Attributes:
        passes: by the names of measure.PASSES.
        transfer: of all modules of the UNet.
    """

    passes: dict[str, float]
    transfer: float


@dataclass(frozen=True)
class Device:
    """Seconds of each repeat."""

    name: str
    repeats: tuple[Costs, ...]
    environment: str


def report() -> None:
    """Writes both sections. A device of which not all is measured has no column."""
    rows: dict[str, Rows] = defaultdict(list)
    for row in results().rows():
        rows[row["device"]].append(row)
    counted = rows.pop(COUNTED, [])
    if {row["part"] for row in counted} != set(PASSES):
        return
    tflop = {row["part"]: float(row["tflop"]) for row in counted}
    devices = [made for name in rows if (made := _device(name, rows[name], tflop)) is not None]
    weights = {row["part"]: float(row["mparameters"]) for row in counted}
    transfer = sum(len(kind.modules) * kind.operations / 1e12 for kind in kinds())
    operations = Costs(tflop, transfer)
    write_section("times-two-models", _two_models(operations, weights, devices))
    moved = [_transfer_said(name, rows[name]) for name in rows]
    write_section("times-wall-clock", "\n\n".join([_wall_clock(operations, devices), *moved]))


def _device(name: str, rows: Rows, tflop: Mapping[str, float]) -> Device | None:
    parts: dict[str, Rows] = defaultdict(list)
    for row in rows:
        parts[row["part"]].append(row)
    runs = {len(found) for found in parts.values()}
    if not set(PASSES) <= parts.keys() or len(runs) != 1:
        return None
    repeats = []
    for repeat in range(runs.pop()):
        now = {part: found[repeat] for part, found in parts.items()}
        passes = {
            # What ran may have been smaller.
            part: float(now[part]["seconds"]) * tflop[part] / float(now[part]["tflop"])
            for part in PASSES
        }
        moved = [row for row in now.values() if row["modules"]]
        transfer = sum(float(row["modules"]) * float(row["seconds"]) for row in moved)
        repeats.append(Costs(passes, transfer))
    return Device(name, tuple(repeats), rows[-1]["environment"])


def _transfer_said(name: str, rows: Rows) -> str:
    """What a transfer takes on a device, whether or not the passes were measured there."""
    totals: dict[str, float] = defaultdict(float)
    for row in rows:
        if row["modules"]:
            totals[row["repeat"]] += float(row["modules"]) * float(row["seconds"])
    seconds = said(list(totals.values()), digits=0)
    return f"The transfer on {name}: {seconds} s ({rows[-1]['environment']})."


# --- a picture ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """The passes that a picture takes: of SDXL alone, of SD1.5 alone, and of both together."""

    name: str
    sdxl: int = 0
    sd15: int = 0
    both: int = 0

    def sum(self, costs: Costs) -> float:
        of = costs.passes
        return self.sdxl * of["sdxl"] + self.sd15 * of["sd15"] + self.both * of["two models"]


ALONE = Picture("SDXL with the moved LoRA", sdxl=2 * STEPS)
PICTURES = (
    ALONE,
    Picture("both at each step", both=2 * STEPS),
    *(
        Picture(f"X-Adapter, start {start:g} ({whose})", 0, 2 * STEPS, 2 * int(STEPS * start))
        for start, whose in STARTS.items()
    ),
)


def _two_models(tflop: Costs, mparameters: Mapping[str, float], devices: Sequence[Device]) -> str:
    header = ["a picture", "passes: SDXL / SD1.5 / both", "million weights", "TFLOP", "of SDXL's"]
    for device in devices:
        header += [f"{device.name}, s", "of SDXL's"]
    lines = []
    for picture in PICTURES:
        held = mparameters["sdxl" if picture is ALONE else "two models"]
        passes = f"{picture.sdxl} / {picture.sd15} / {picture.both}"
        line = [picture.name, passes, f"{held:.0f}", f"{picture.sum(tflop):.0f}"]
        line.append(f"{picture.sum(tflop) / ALONE.sum(tflop):.2f}")
        for device in devices:
            ratios = [picture.sum(costs) / ALONE.sum(costs) for costs in device.repeats]
            line += [f"{mean(map(picture.sum, device.repeats)):.0f}", said(ratios, digits=2)]
        lines.append(line)
    return "\n\n".join([markdown(header, lines), *map(_environment, devices)])


# --- the wall clock -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What a way to a LoRA of the target takes: passes, those with a backward one, a transfer."""

    name: str
    forward: int = 0
    backward: int = 0
    transfers: int = 0

    def sum(self, costs: Costs) -> float:
        forward, backward = costs.passes["sdxl"], costs.passes["training step"]
        passes = self.forward * forward + self.backward * backward
        return passes + self.transfers * costs.transfer


def _works() -> list[Work]:
    runs = passes()
    heard = runs.sample + runs.listen
    refined = runs.calibrate + runs.ask
    return [
        *(Work(name, backward=count) for name, count in TRAINING.items()),
        Work("transfer by the weights alone (`full`)", transfers=1),
        Work("recording the source, once for all targets", heard),
        Work("`calibrated`, after the recording", runs.calibrate, transfers=1),
        Work("`refined`, after the recording", refined, runs.refine, 1),
        Work("`refined`, with the recording", heard + refined, runs.refine, 1),
    ]


def _wall_clock(tflop: Costs, devices: Sequence[Device]) -> str:
    header = ["a LoRA for the target", "passes of SDXL", "with a backward pass", "PFLOP"]
    header.append("of the first")
    for device in devices:
        header += [f"{device.name}, hours", "of the first"]
    works = _works()
    lines = []
    for work in works:
        line = [work.name, work.forward or "", work.backward or ""]
        line += [f"{work.sum(tflop) / 1000:.3g}", f"{work.sum(tflop) / works[0].sum(tflop):.2g}"]
        for device in devices:
            shares = [work.sum(costs) / works[0].sum(costs) for costs in device.repeats]
            line += [f"{mean(map(work.sum, device.repeats)) / 3600:.3g}", said(shares, digits=4)]
        lines.append(line)
    return "\n\n".join([markdown(header, lines), *map(_environment, devices)])


def _environment(device: Device) -> str:
    runs = len(device.repeats)
    return f"{device.name}: {device.environment}; {runs} runs of each, mean ± deviation."
