"""Mode calibrated: maps that come from a recording.

At a module, the LoRA's `down` reads z = x_s down^T of the source's inputs. The target's inputs x_t
at the same positions of the same latents are others, so the factor is fitted to read the same of
them: down_t = argmin ||z - X_t down^T||^2 + l ||down - down_0||^2. It starts from the copied
factors (down_0 = down, up_t = up): from those of mode full it comes out worse (demo/MODELS.md). The
weights still tell how similar two modules are.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ..adapters.dora import DoraAdapter
from ..algebra.kept import NOTHING_KEPT, Forgetful
from ..algebra.maps import PROJECTION_MODES
from ..algebra.quadrants import Quadrants
from ..algebra.ridge import Fit, fit_towards
from ..algebra.updates import DenseUpdate, LowRankUpdate, Update
from ..models.model import Model
from ..models.outline import is_outline
from ..pairing.module_pairs import ModulePair, ResolvedAdapter
from ..progress import Progress, silent
from ..transfer.assemble import TransferResult
from ..transfer.job import transfer_resolved
from ..transfer.maps import BothWeights, CopiedMaps, Maps, Moved, PairMaps, SubspaceMaps
from ..transfer.modes import CALIBRATED
from ..transfer.parts import refuse_unknown
from ..transfer.report import Measures
from ..transfer.resolve import ResolvedLora
from ..transfer.settings import TransferSettings
from .layers import Place, why_not_heard
from .listening import Examples
from .network import Network, TextNetwork
from .readouts import collect_inputs
from .record import heard_factors
from .recording import ReadOut, Recording

PENALTY = 3.0  # how much what it starts from is trusted; see fit_towards
ROOM = 2 << 30  # bytes of inputs that are held at a time

_Place = tuple[str, str]  # a module of the LoRA, and the weight of the target


def transfer_recorded(
    lora: ResolvedLora,
    target: Model,
    recording: Recording,
    network: Network,
    settings: TransferSettings,
    progress: Progress = silent,
    text: TextNetwork | None = None,
    room: int = ROOM,
    kept: Forgetful = NOTHING_KEPT,
) -> TransferResult:
    """Moves a LoRA by what a recording tells of its source, if the mode is auto or calibrated.

    Args:
        network, text: the target, and its text encoder where the LoRA has modules for it.
        room: bytes of inputs to hold at a time; with less, the target runs more often.
        kept: see transfer_resolved.

    Raises:
        ProLoRAError: the recording is of another LoRA; the LoRA needs weights that the recording
            does not have; or see transfer_resolved.
    """
    settings = settings.settled(recorded=True)
    if settings.mode != CALIBRATED:
        moved = transfer_resolved(lora, target, settings, progress, kept=kept)
        return moved.noted(f"The recording was not used: mode {settings.mode} was chosen.")
    recording.check_lora(lora.file.digest, lora.file.name)
    recording.check_noise(network.noised, target.name)
    base: Maps = SubspaceMaps(PROJECTION_MODES["alike"], settings.subspace_energy, kept)
    if is_outline(lora.source):
        _refuse_without_weights(lora)
        base = CopiedMaps()
    maps = CalibratedMaps(lora, recording, network, text, base, progress, room)
    return transfer_resolved(lora, target, settings, progress, maps, kept)


@dataclass(frozen=True)
class Calibration:
    """What was found for a module at a place of the target.

    Attributes:
        down: r x n, what the LoRA's module has, of the factors that it was heard through.
        fit: to the target's inputs.
        off_copied: how far the read-outs of `down` are off there.
    """

    down: torch.Tensor
    fit: Fit
    off_copied: float


@dataclass
class CalibratedMaps:
    """A provider of maps (see transfer.maps.Maps) that listens to the target.

    Attributes:
        base: the provider of what the weights tell, which copies every update.
        room: bytes of inputs that are held at a time; with less, the target runs more often.
    """

    lora: ResolvedLora
    recording: Recording
    network: Network
    text: TextNetwork | None
    base: Maps
    progress: Progress
    room: int = ROOM
    penalty: float = PENALTY
    _found: dict[_Place, Calibration] = field(default_factory=dict)
    _unheard: dict[_Place, str] = field(default_factory=dict)

    def prepare(self, pairs: Sequence[ModulePair]) -> None:
        """Runs the target on the recording's latents and fits every module to its inputs."""
        self.base.prepare(pairs)
        recording = self.recording

        def run(index: int) -> object:
            one = torch.tensor([index])
            latents = recording.latents[one].float()
            return self.network.denoise(latents, recording.sigmas[one], recording.prompts_at(one))

        latents = Examples(len(recording), run, "the target")
        self._listen(pairs, recording.readouts, self.network.layers, latents)
        if self.text is not None:
            texts, encode = [prompt.text for prompt in recording.prompts], self.text.encode
            examples = Examples(len(texts), lambda i: encode(texts[i]), "the text encoder")
            self._listen(pairs, recording.text_readouts, self.text.layers, examples)

    def of(self, both: Sequence[tuple[ModulePair, BothWeights]]) -> list[PairMaps]:
        found = zip(self.base.of(both), both, strict=True)
        return [CalibratedPairMaps(base, pair, self) for base, (pair, _) in found]

    def found(self, name: str, pair: ModulePair) -> Calibration | None:
        """What was found for a module; None where it was not heard."""
        return self._found.get((name, str(pair.target)))

    def why_not(self, name: str, pair: ModulePair) -> str:
        """Why it was not heard."""
        return self._unheard.get((name, str(pair.target))) or self.recording.left_out.get(
            name, "the recording has nothing of it"
        )

    def _listen(
        self,
        pairs: Sequence[ModulePair],
        readouts: Mapping[str, ReadOut],
        layers: Mapping[str, nn.Module],
        examples: Examples,
    ) -> None:
        places: dict[_Place, Place] = {}
        for pair in pairs:
            at = (pair.adapter.name, str(pair.target))
            if at[0] in readouts:
                self._unheard[at] = why_not_heard(pair.target, layers)
                if not self._unheard[at]:
                    places[at] = Place(pair.target, layers[pair.target.key])
        modules = {module.adapter.name: module for module in self.lora.adapters}
        for group in _groups(places, readouts, self.room):
            of = {"\n".join(at): at for at in group}
            inputs, misfits = collect_inputs(
                {name: places[at] for name, at in of.items()},
                {name: readouts[at[0]] for name, at in of.items()},
                examples,
                self.progress,
            )
            self._unheard |= {of[name]: why for name, why in misfits.items()}
            for name, rows in inputs.items():
                at = of[name]
                self._fit(at, modules[at[0]], readouts[at[0]], rows)

    def _fit(self, at: _Place, module: ResolvedAdapter, readout: ReadOut, X: torch.Tensor) -> None:
        down = readout.down
        if down is None:
            down = heard_factors(module, self.lora.source)[0].down.float()
        z = readout.values
        if down.shape != (z.shape[1], X.shape[1]):
            self._unheard[at] = "the recording is of another rank or width there"
            return
        off = float((z - X @ down.T).norm()) / (float(z.norm()) or 1.0)
        self._found[at] = Calibration(down, fit_towards(X, z, down, self.penalty), off)


@dataclass(frozen=True)
class CalibratedPairMaps:
    """The maps of one pair; see transfer.maps.PairMaps."""

    base: PairMaps
    pair: ModulePair
    maps: CalibratedMaps

    @property
    def measures(self) -> Measures:
        return self.base.measures

    @property
    def note(self) -> str:
        return self.base.note

    def moved(self, update: Update, module: str) -> Moved:
        found = self.maps.found(module, self.pair)
        if found is None:
            by_weights = self.base.moved(update, module).update
            return Moved(by_weights, f"by its weights: {self.maps.why_not(module, self.pair)}")
        off = found.off_copied, found.fit.off_after
        if isinstance(update, LowRankUpdate):
            factor = found.fit.factor.to(update.down)
            return Moved(LowRankUpdate(update.up, factor), readouts_off=off)
        # What the module was not heard through stays as it is.
        down = found.down.to(update.delta)
        up = torch.linalg.lstsq(down.T.double(), update.delta.T.double()).solution.T.to(down)
        change = found.fit.factor.to(down) - down
        return Moved(DenseUpdate(update.delta + up @ change), readouts_off=off)

    def quadrants(self, update: Update) -> Quadrants | None:
        return self.base.quadrants(update)


def _groups(
    places: Mapping[_Place, Place], readouts: Mapping[str, ReadOut], room: int
) -> Iterator[list[_Place]]:
    """The places in groups whose inputs take no more room than there is; one at least."""
    group: list[_Place] = []
    held = 0
    for at, place in places.items():
        size = 4 * len(readouts[at[0]].positions) * place.width
        if group and held + size > room:
            yield group
            group, held = [], 0
        group.append(at)
        held += size
    if group:
        yield group


def _refuse_without_weights(lora: ResolvedLora) -> None:
    """Raises for a family that is made from the source's weights, which are not known."""
    for module in lora.adapters:
        update = module.adapter.update(torch.full((), torch.nan).expand(module.shape))
        if isinstance(module.adapter, DoraAdapter) or not math.isfinite(update.energy()):
            refuse_unknown(module.adapter)
