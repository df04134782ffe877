"""The sections of docs/evidence.md: a picture by two models at once, and the wall clock."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import mean

from benchmarks.evidence.page import write_section
from benchmarks.evidence.tables import markdown, said
from benchmarks.recording_sdxl import passes
from benchmarks.times.measure import results

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


@dataclass(frozen=True)
class Measured:
    """A part, for pictures of the real size.

    Attributes:
        seconds: of each repeat, by the operations if what ran was smaller.
        tflop, mparameters: counted.
        modules: how many there are of a kind; 0 for a pass.
    """

    seconds: tuple[float, ...]
    tflop: float
    mparameters: float
    modules: float


Parts = dict[str, Measured]


def report() -> None:
    """Writes both sections; a device after the other."""
    devices: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in results().rows():
        devices[row["device"]].append(row)
    found = {device: _parts(rows) for device, rows in devices.items()}
    of = {device: rows[-1]["environment"] for device, rows in devices.items()}
    for name, write in (("times-two-models", _two_models), ("times-wall-clock", _wall_clock)):
        write_section(name, "\n\n".join(write(found[device], of[device]) for device in found))


def _parts(rows: list[dict[str, str]]) -> Parts:
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row["part"]].append(row)
    return {
        part: Measured(
            tuple(
                float(row["seconds"]) * float(row["full_tflop"]) / float(row["tflop"])
                for row in group
            ),
            *(float(group[0][name] or 0) for name in ("full_tflop", "mparameters", "modules")),
        )
        for part, group in groups.items()
    }


# --- a picture ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """The passes that a picture takes: of SDXL alone, of SD1.5 alone, and of both together."""

    name: str
    sdxl: int = 0
    sd15: int = 0
    both: int = 0

    def sum(self, sdxl: float, sd15: float, both: float) -> float:
        return self.sdxl * sdxl + self.sd15 * sd15 + self.both * both


ALONE = Picture("SDXL with the moved LoRA", sdxl=2 * STEPS)
PICTURES = (
    ALONE,
    Picture("both at each step", both=2 * STEPS),
    *(
        Picture(
            f"X-Adapter, start {start:g} ({whose})", sd15=2 * STEPS, both=2 * int(STEPS * start)
        )
        for start, whose in STARTS.items()
    ),
)


def _two_models(parts: Parts, environment: str) -> str:
    sdxl, sd15, both = (parts[name] for name in ("sdxl", "sd15", "two models"))
    times = list(zip(sdxl.seconds, sd15.seconds, both.seconds, strict=True))
    lines = []
    for picture in PICTURES:
        tflop = picture.sum(sdxl.tflop, sd15.tflop, both.tflop)
        ratios = [picture.sum(*of) / ALONE.sum(*of) for of in times]
        lines.append(
            [
                picture.name,
                f"{picture.sdxl} / {picture.sd15} / {picture.both}",
                f"{tflop:.0f}",
                f"{mean(picture.sum(*of) for of in times):.0f}",
                f"{tflop / ALONE.sum(sdxl.tflop, sd15.tflop, both.tflop):.2f}",
                said(ratios, digits=2),
                f"{sdxl.mparameters if picture is ALONE else both.mparameters:.0f}",
            ]
        )
    header = (
        "a picture",
        "passes: SDXL / SD1.5 / both",
        "TFLOP",
        "seconds",
        "times as many, counted",
        "times as long, measured",
        "million weights",
    )
    return f"{markdown(header, lines)}\n\n{_environment(parts, environment)}"


# --- the wall clock -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What a way to a LoRA of the target takes: passes, those with a backward one, a transfer."""

    name: str
    forward: int = 0
    backward: int = 0
    transfers: int = 0


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


def _wall_clock(parts: Parts, environment: str) -> str:
    transfer = [part for part in parts.values() if part.modules]
    each = [
        (
            parts["sdxl"].seconds[repeat],
            parts["training step"].seconds[repeat],
            sum(part.modules * part.seconds[repeat] for part in transfer),
        )
        for repeat in range(len(parts["sdxl"].seconds))
    ]
    tflop = (
        parts["sdxl"].tflop,
        parts["training step"].tflop,
        sum(part.modules * part.tflop for part in transfer),
    )
    works = _works()
    lines = []
    for work in works:
        shares = [_sum(work, of) / _sum(works[0], of) for of in each]
        lines.append(
            [
                work.name,
                work.forward or "",
                work.backward or "",
                f"{_sum(work, tflop) / 1000:.3g}",
                f"{mean(_sum(work, of) for of in each) / 3600:.3g}",
                said(shares, digits=4 if work.transfers and not work.forward else 2),
            ]
        )
    header = (
        "a LoRA for the target",
        "passes of SDXL",
        "with a backward pass",
        "PFLOP",
        "hours",
        "of the first row's time",
    )
    return f"{markdown(header, lines)}\n\n{_environment(parts, environment)}"


def _sum(work: Work, of: tuple[float, float, float]) -> float:
    forward, backward, transfer = of
    return work.forward * forward + work.backward * backward + work.transfers * transfer


def _environment(parts: Parts, environment: str) -> str:
    runs = len(parts["sdxl"].seconds)
    return f"{environment}; {runs} runs of each part in turns, mean ± deviation."
