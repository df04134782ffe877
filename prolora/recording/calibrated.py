"""Mode calibrated: maps that come from a recording.

At a module, the LoRA's `down` reads z = x_s down^T of the source's inputs. The target's inputs x_t
at the same positions of the same latents are others, so the factor is fitted to read the same of
them: down_t = argmin ||z - X_t down^T||^2 + l ||down - down_0||^2. It starts from the copied
factors (down_0 = down, up_t = up): from those of mode full it comes out worse (demo/MODELS.md). The
weights still tell how similar two modules are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ..adapters.dora import DoraAdapter
from ..algebra.maps import copied_map
from ..algebra.quadrants import Quadrants
from ..algebra.ridge import fit_towards
from ..algebra.updates import DenseUpdate, LowRankUpdate, Update
from ..errors import ProLoRAError
from ..models.model import Model
from ..models.outline import is_outline
from ..pairing.module_pairs import ModulePair
from ..transfer.assemble import TransferResult
from ..transfer.backends import Progress
from ..transfer.job import transfer_resolved
from ..transfer.maps import CopiedMaps, Maps, Moved, PairMaps, SubspaceMaps
from ..transfer.modes import CALIBRATED
from ..transfer.report import Measures
from ..transfer.resolve import ResolvedLora
from ..transfer.settings import TransferSettings
from .layers import Place, why_not_heard
from .listening import Examples
from .network import Network, TextNetwork
from .readouts import collect_inputs
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
    progress: Progress = lambda done, total, name: None,
    text: TextNetwork | None = None,
    room: int = ROOM,
) -> TransferResult:
    """Moves a LoRA by what a recording tells of its source, if the mode is auto or calibrated.

    Args:
        network, text: the target, and its text encoder where the LoRA has modules for it.
        room: bytes of inputs to hold at a time; with less, the target runs more often.

    Raises:
        ProLoRAError: the recording is of another LoRA; the LoRA needs weights that the recording
            does not have; or see transfer_resolved.
    """
    settings = settings.settled(recorded=True)
    if settings.mode != CALIBRATED:
        moved = transfer_resolved(lora, target, settings, progress)
        return moved.noted(f"The recording was not used: mode {settings.mode} was chosen.")
    recording.check_lora(lora.file.digest, lora.file.name)
    base: Maps = SubspaceMaps((copied_map,), settings.subspace_energy)
    if is_outline(lora.source):
        _refuse_without_weights(lora)
        base = CopiedMaps()
    maps = CalibratedMaps(recording, network, text, base, progress, room)
    return transfer_resolved(lora, target, settings, progress, maps)


@dataclass
class CalibratedMaps:
    """A provider of maps (see transfer.maps.Maps) that listens to the target.

    Attributes:
        base: the provider of what the weights tell.
    """

    recording: Recording
    network: Network
    text: TextNetwork | None
    base: Maps
    progress: Progress
    room: int = ROOM
    penalty: float = PENALTY
    _inputs: dict[_Place, torch.Tensor] = field(default_factory=dict)
    _unheard: dict[_Place, str] = field(default_factory=dict)

    def prepare(self, pairs: Sequence[ModulePair]) -> None:
        """Runs the target on the recording's latents and keeps its inputs."""
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

    def of(self, pair: ModulePair, source: torch.Tensor, target: torch.Tensor) -> PairMaps:
        return CalibratedPairMaps(self.base.of(pair, source, target), pair, self)

    def heard(self, name: str, pair: ModulePair) -> "tuple[ReadOut, torch.Tensor] | None":
        """What a module reads in the source, and the target's inputs at the same positions."""
        inputs = self._inputs.get((name, str(pair.target)))
        readouts = self.recording.readouts.get(name) or self.recording.text_readouts.get(name)
        return None if inputs is None or readouts is None else (readouts, inputs)

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
            if at[0] not in readouts:
                continue
            self._unheard[at] = why_not_heard(pair.target, layers)
            if not self._unheard[at]:
                places[at] = Place(pair.target, layers[pair.target.key])
        names = {at: "\n".join(at) for at in places}
        for group in _groups(places, readouts, self.room):
            found = collect_inputs(
                {names[at]: places[at] for at in group},
                {names[at]: readouts[at[0]] for at in group},
                examples,
                self.progress,
            )
            self._inputs |= {at: found[names[at]] for at in group}


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
        heard = self.maps.heard(module, self.pair)
        if heard is None:
            by_weights = self.base.moved(update, module)
            return Moved(
                by_weights.update, f"by its weights: {self.maps.why_not(module, self.pair)}"
            )
        readout, inputs = heard
        factors = _factors(update, readout)
        start = self.base.moved(factors, module).update
        assert isinstance(start, LowRankUpdate)
        X, z = inputs.to(start.down), readout.values.to(start.down)
        fit = fit_towards(X, z, start.down, self.maps.penalty)
        calibrated = LowRankUpdate(start.up, fit.factor)
        off = _off(z, X, factors.down), fit.off_after
        if isinstance(update, LowRankUpdate):
            return Moved(calibrated, readouts_off=off)
        rest = self.base.moved(DenseUpdate(update.delta - factors.delta), module).update
        return Moved(DenseUpdate(rest.delta + calibrated.delta), readouts_off=off)

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


def _factors(update: Update, readout: ReadOut) -> LowRankUpdate:
    """The factors that were heard: the update's own, or the nearest ones with the `down` kept."""
    if isinstance(update, LowRankUpdate):
        return update
    assert readout.down is not None
    down = readout.down.to(update.delta)
    up = torch.linalg.lstsq(down.T.double(), update.delta.T.double()).solution.T
    return LowRankUpdate(up.to(down), down)


def _off(z: torch.Tensor, X: torch.Tensor, down: torch.Tensor) -> float:
    """How far the copied factor's read-outs are off: ||z - X down^T|| / ||z||."""
    size = float(torch.linalg.vector_norm(z))
    return float(torch.linalg.vector_norm(z - X @ down.T)) / size if size else 0.0


def _refuse_without_weights(lora: ResolvedLora) -> None:
    """Raises for a family that is made from the source's weights."""
    for module in lora.adapters:
        unknown = torch.full((), torch.nan).expand(module.shape)
        is_dora = isinstance(module.adapter, DoraAdapter)
        if is_dora or not torch.isfinite(torch.tensor(module.adapter.update(unknown).energy())):
            raise ProLoRAError(
                f"The {module.adapter.family} of the module {module.adapter.name} is made from the "
                "source's weight, which a recording does not hold. Choose the checkpoint that the "
                "LoRA was trained on as the source."
            )
