"""Measure how near a moved LoRA comes to one that is trained anew on the target.

    python -m demo.training.evidence measure --tarballs FOLDER   # every way to move
    python -m demo.training.evidence curve --tarballs FOLDER     # how large a recording must be
    python -m demo.training.evidence report                      # tables of what was measured

The LoRAs are those of `evidence_loras.py`. What was measured is added to evidence.csv in this
folder, a line each, and is not measured again. A line of `measure` takes seconds to a minute of one
CPU core.
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from demo.emoji.names import NAMES
from demo.emoji.prompt import encode_names
from demo.training.data import STYLES
from demo.training.evidence_loras import MODELS, SEEDS, style_task
from demo.training.flow import euler, noise_levels
from demo.training.kinds import CFG, CHILD_STEPS, EVIDENCE, KINDS, STEPS, Guided
from demo.training.model import Lora, load_model
from demo.training.network import as_clean, levels, network_of
from prolora import TransferSettings, load_checkpoint, lora_state_dict, read_adapter_file
from prolora.adapters import Adapter, LoraAdapter
from prolora.files.safetensors import write_safetensors
from prolora.models.model import Model
from prolora.recording.calibrated import transfer_recorded
from prolora.recording.record import Clean, RecordingSettings, record
from prolora.recording.recording import Recording
from prolora.recording.refine import RefineSettings, refine
from prolora.transfer.job import transfer_resolved
from prolora.transfer.resolve import ResolvedLora, resolve

RESULTS = Path(__file__).resolve().parent / "evidence.csv"
SOURCE_OF = {"b": "a", "pruned": "a", "deepened": "a", "kinds_distilled": "kinds"}
DISTILLED = "kinds_distilled"
SAMPLES, LEVELS = 64, 4  # of a recording
DRAWN = 96  # pictures that a distilled model is judged by
REPEATS = 3  # of every picture, under other noise, in a loss


@dataclass(frozen=True)
class Case:
    """One style, trained with one seed, on one target.

    Attributes:
        file: of the source LoRA.
    """

    target: str
    style: str
    seed: int

    @property
    def source(self) -> str:
        return SOURCE_OF[self.target]

    @property
    def file(self) -> Path:
        return EVIDENCE / f"{self.source}_{self.style}_{self.seed}.safetensors"

    @property
    def retrained(self) -> Path:
        return EVIDENCE / f"{self.target}_{self.style}_{self.seed}.safetensors"


@cache
def network(which: str) -> nn.Module:
    return load_model(MODELS[which]).requires_grad_(False)


@cache
def model(which: str) -> Model:
    return load_checkpoint(MODELS[which])


@cache
def resolved(case: Case) -> ResolvedLora:
    return resolve(read_adapter_file(case.file), model(case.source))


# --- recordings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a recording is made.

    Attributes:
        styled: whether the samples are drawn with the LoRA.
        scheduled: whether it is for the four steps of the distilled child.
    """

    samples: int = SAMPLES
    levels: int = LEVELS
    positions: int = 256
    styled: bool = True
    scheduled: bool = False


@cache
def recording(source: str, style: str, seed: int, recipe: Recipe) -> Recording:
    case = next(Case(t, style, seed) for t, s in SOURCE_OF.items() if s == source)
    running, lora = network(source), Lora(network(source)).load(case.file)
    settings = RecordingSettings(recipe.levels, recipe.positions)
    if recipe.scheduled:
        schedule = tuple(noise_levels(CHILD_STEPS).tolist())
        settings = replace(settings, schedule=schedule, cfg=CFG)
    clean = drawn(running, lora if recipe.styled else None, source, recipe.samples)
    return record(
        resolved(case),
        network_of(running),
        network_of(running, lora),
        clean,
        levels(recipe.samples * recipe.levels, seed=0),
        "SD3",
        settings,
    )


def drawn(running: nn.Module, lora: Lora | None, source: str, count: int) -> Clean:
    """Samples of a source, of as many prompts as it has."""
    generator = torch.Generator().manual_seed(99)
    if source == "kinds":
        names = [KINDS[i % len(KINDS)] for i in range(count)]
        running, negative = Guided(running, CFG), ""
    else:
        names = [NAMES[i] for i in torch.randperm(len(NAMES), generator=generator)[:count]]
        negative = None
    noise = torch.randn(count, 16, 8, 8, generator=generator)
    if lora is None:
        *_, latents = euler(running, noise, *encode_names(names), STEPS)
    else:
        inner = running.model if isinstance(running, Guided) else running
        with lora.on(inner):
            *_, latents = euler(running, noise, *encode_names(names), STEPS)
    return as_clean(latents, names, negative)


# --- ways to move -------------------------------------------------------------------------------


def by_weights(mode: str, case: Case) -> Sequence[Adapter]:
    settings = TransferSettings(mode=mode, rank=8 if mode == "casa" else 0)
    return transfer_resolved(resolved(case), model(case.target), settings).adapters


@cache
def calibrated(case: Case, recipe: Recipe) -> Sequence[Adapter]:
    heard = recording(case.source, case.style, case.seed, recipe)
    running = network_of(network(case.target))
    return transfer_recorded(
        resolved(case), model(case.target), heard, running, TransferSettings()
    ).adapters


def refined(case: Case, recipe: Recipe, settings: RefineSettings) -> Sequence[Adapter]:
    heard = recording(case.source, case.style, case.seed, recipe)
    return _refined(calibrated(case, recipe), case, heard, settings)


def from_nothing(case: Case, recipe: Recipe, settings: RefineSettings) -> Sequence[Adapter]:
    """As many steps, three times as large, from a LoRA that does nothing yet."""
    heard = recording(case.source, case.style, case.seed, recipe)
    generator = torch.Generator().manual_seed(case.seed)
    empty = []
    for adapter in by_weights("copy", case):
        assert isinstance(adapter, LoraAdapter)
        n = adapter.down[0].numel()
        down = torch.randn(8, n, generator=generator) / n**0.5
        up = torch.zeros(adapter.up.shape[0], 8)
        empty.append(replace(adapter, up=up, down=down, alpha=8.0, parts={}))
    return _refined(empty, case, heard, replace(settings, rate=3 * settings.rate))


def _refined(
    adapters: Sequence[Adapter], case: Case, heard: Recording, settings: RefineSettings
) -> Sequence[Adapter]:
    running = network_of(network(case.target))
    return refine(adapters, model(case.target), running, heard, settings).adapters


Way = Callable[[Case], Sequence[Adapter]]


def ways(case: Case) -> Mapping[str, Way]:
    """Every way to move, by the name of its row."""
    plain, steps = Recipe(scheduled=case.target == DISTILLED), RefineSettings()
    found: dict[str, Way] = {}
    for mode in ("copy", "full", "prolora", "subspace", "casa"):
        found[mode] = lambda c, mode=mode: by_weights(mode, c)
    found["calibrated"] = lambda c: calibrated(c, plain)
    for count in (10, 25, 50):
        found[f"refined {count}"] = lambda c, n=count: refined(c, plain, replace(steps, steps=n))
    found["from nothing 25"] = lambda c: from_nothing(c, plain, steps)
    for own in (0.0, 0.15):
        found[f"refined 25, own {own:g}"] = lambda c, own=own: refined(
            c, plain, replace(steps, own=own)
        )
    bare = replace(plain, styled=False)
    found["calibrated, samples without"] = lambda c: calibrated(c, bare)
    found["refined 25, samples without"] = lambda c: refined(c, bare, steps)
    if case.target == DISTILLED:
        single = replace(plain, scheduled=False)
        found["refined 25, single predictions"] = lambda c: refined(c, single, steps)
    return found


# --- what is measured ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """Lower is better.

    Attributes:
        loss: on the target's own pictures in the style; of a distilled target, how far its pictures
            are from the source's (styled, guided, many steps) from the same noise.
        source_loss: on the source's pictures in the style.
    """

    loss: float
    source_loss: float


def score(case: Case, lora: Lora | None, tarballs: Path) -> Score:
    """Of the target with a LoRA, or without."""
    running = network(case.target)
    if lora is None:
        return _score(case, running, tarballs)
    with lora.on(running):
        return _score(case, running, tarballs)


def _score(case: Case, running: nn.Module, tarballs: Path) -> Score:
    if case.target == DISTILLED:
        error = _distance(case, running)
        return Score(error, error)
    own = style_task(case.target, case.style, tarballs).held_out(running, REPEATS)
    if case.target != "b":
        return Score(own, own)
    return Score(own, style_task("a", case.style, tarballs).held_out(running, REPEATS))


def _distance(case: Case, running: nn.Module) -> float:
    """Mean squared difference from the pictures that are wanted."""
    noise, prompts, wanted = _wanted(case)
    *_, found = euler(running, noise, *prompts, CHILD_STEPS)
    return float((found - wanted).square().mean())


@cache
def _wanted(case: Case) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Noise, prompts, and what the source draws with its LoRA, guided, in many steps."""
    generator = torch.Generator().manual_seed(2**31)
    noise = torch.randn(DRAWN, 16, 8, 8, generator=generator)
    prompts = encode_names([KINDS[i % len(KINDS)] for i in range(DRAWN)])
    source = network(case.source)
    with Lora(source).load(case.file).on(source):
        *_, latents = euler(Guided(source, CFG), noise, *prompts, STEPS)
    return noise, prompts, latents


def worn(case: Case, adapters: Sequence[Adapter]) -> Lora:
    """A moved LoRA as training has it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "moved.safetensors"
        write_safetensors(lora_state_dict(adapters), path, {})
        return Lora(network(case.target)).load(path)


def lines(case: Case, tarballs: Path, known: set[tuple[str, ...]]) -> Iterator[tuple[str, Score]]:
    """The rows of a case that are not known, with their scores."""
    ends = {
        "without": lambda: None,
        "retrained": lambda: Lora(network(case.target)).load(case.retrained),
    }
    for row, lora in ends.items():
        if (*_key(case), row) not in known:
            yield row, score(case, lora(), tarballs)
    for row, way in ways(case).items():
        if (*_key(case), row) not in known:
            yield row, score(case, worn(case, way(case)), tarballs)


# --- the file -----------------------------------------------------------------------------------


def _key(case: Case) -> tuple[str, str, str]:
    return case.target, case.style, str(case.seed)


def read_results() -> list[list[str]]:
    if not RESULTS.is_file():
        return []
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def add_result(case: Case, row: str, found: Score) -> None:
    is_new = not RESULTS.is_file()
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        if is_new:
            table.writerow(["target", "style", "seed", "row", "loss", "source_loss"])
        table.writerow([*_key(case), row, f"{found.loss:.5f}", f"{found.source_loss:.5f}"])
    print(*_key(case), row, f"{found.loss:.4f} {found.source_loss:.4f}", flush=True)


def measure(tarballs: Path, cases: Sequence[Case]) -> None:
    known = {tuple(line[:4]) for line in read_results()}
    for case in cases:
        if case.file.is_file() and case.retrained.is_file():
            for row, found in lines(case, tarballs, known):
                add_result(case, row, found)
            recording.cache_clear()
            calibrated.cache_clear()


def curve(tarballs: Path) -> None:
    """How the size of a recording matters, on one style and seed."""
    sizes = [(64, 2, 256), (128, 1, 256), (64, 4, 256), (64, 1, 256), (16, 4, 256), (16, 16, 256)]
    sizes += [(256, 1, 256), (64, 2, 64), (64, 2, 1024), (64, 2, 4096)]
    known = {tuple(line[:4]) for line in read_results()}
    for case, (samples, noised, positions) in product(
        [Case("b", "cyanotype", 1), Case("pruned", "cyanotype", 1)], sizes
    ):
        recipe, name = Recipe(samples, noised, positions), f"{samples} x {noised}, {positions}"
        if (*_key(case), f"calibrated, {name}") not in known:
            found = calibrated(case, recipe)
            add_result(case, f"calibrated, {name}", score(case, worn(case, found), tarballs))
        if positions == 256 and (*_key(case), f"refined 25, {name}") not in known:
            better = refined(case, recipe, RefineSettings())
            add_result(case, f"refined 25, {name}", score(case, worn(case, better), tarballs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["measure", "curve"])
    parser.add_argument("--tarballs", type=Path, default=Path(), help="folder of the two tarballs")
    parser.add_argument("--targets", nargs="+", choices=list(SOURCE_OF), default=list(SOURCE_OF))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    options = parser.parse_args()
    if options.what == "curve":
        curve(options.tarballs)
    else:
        every = product(options.seeds, options.targets, STYLES)
        measure(options.tarballs, [Case(target, style, seed) for seed, target, style in every])


if __name__ == "__main__":
    main()
