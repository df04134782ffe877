"""Theseus: an update moves with the rotations that take the source's activations to the target's.

Rinaldi, Panariello et al., "Transporting Task Vectors across Different Architectures without
Training", arXiv 2602.12952, and its public code (apanariello4/merge-and-rebase at 345c570,
rebase/methods/theseus.py). With the rows X_s, X_t of a layer's inputs and Y_s, Y_t of its outputs,
both models run on the same data, row for row:

    T_in  = argmin ||X_s T - X_t||_F   over orthogonal T   = U V^T   of   X_s^T X_t = U S V^T
    T_out = the same of Y_s and Y_t
    delta_t = T_out^T delta T_in

As the code's defaults have it: both models without the update, activations not centred, not scaled
and not whitened, a bias among the outputs. The code tunes a strength on validation data (0.5 to 5);
here it is 1, as for every other row.

The parts of a fused weight (q, k, v) move by themselves, as the code splits them. The code drops
convolutions; here their maps are of channels, the same at each place of the kernel, which is exact
where the channels alone are rotated.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from prolora.algebra.updates import DenseUpdate, LowRankUpdate, Update
from prolora.models.model import Model
from prolora.models.references import Slice, WeightRef
from prolora.pairing.module_pairs import ModulePair
from prolora.recording.layers import is_convolution, why_not_heard
from prolora.recording.network import Network, Prompt
from prolora.transfer.assemble import TransferResult
from prolora.transfer.job import transfer_resolved
from prolora.transfer.maps import BothWeights, Moved, PairMaps
from prolora.transfer.report import Measures
from prolora.transfer.resolve import ResolvedLora
from prolora.transfer.settings import TransferSettings
from prolora.transfer.task_weights import WeightRows

_AS_THEY_ARE = TransferSettings(mode="copy")  # every module that has a place in the target


@dataclass(frozen=True)
class Running:
    """A model, without the LoRA, that runs on one example after the other.

    Attributes:
        layers: see Network.
        run: runs it on an example, a batch or one, by its number.
    """

    layers: Mapping[str, nn.Module]
    run: Callable[[int], object]


def denoising(
    network: Network, latents: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[Prompt]
) -> Running:
    """A diffusion model on noised latents, N x ..., each an example with its sigma and prompt."""

    def run(index: int) -> object:
        one = slice(index, index + 1)
        return network.denoise(latents[one].float(), sigmas[one], prompts[one])

    return Running(network.layers, run)


def theseus(
    lora: ResolvedLora,
    target: Model,
    source_running: Running,
    target_running: Running,
    examples: int,
    positions: int = 1024,
    seed: int = 0,
    settings: TransferSettings = _AS_THEY_ARE,
) -> TransferResult:
    """Moves a LoRA by the activations of both models on the same examples.

    A LoRA keeps its rank. What cannot be listened to is copied, and the report says so.

    Args:
        examples: how many both models run on. Their rows, examples x positions, should be more than
            a layer is wide, and fill its width: what they leave open, the SVD decides by chance
            (such as most outputs of a layer that reads the noise level alone).
        positions: rows of each layer that are taken of an example, the same ones of both models.
        seed: of the positions.
    """
    maps = ProcrustesMaps(source_running, target_running, examples, positions, seed)
    return rotated(lora, target, maps, settings)


def rotated(
    lora: ResolvedLora,
    target: Model,
    maps: "ProcrustesMaps",
    settings: TransferSettings = _AS_THEY_ARE,
) -> TransferResult:
    """The same by maps that may serve more LoRAs of the same two models."""
    # Equal weights in two models may stand between bases that differ.
    settings = replace(settings, copy_identical=False)
    return transfer_resolved(lora, target, settings, maps=maps)


def procrustes(cross: torch.Tensor) -> torch.Tensor:
    """The orthogonal map (n_s x n_t) of a cross-covariance X_s^T X_t of that shape; in float64.

    Where the widths differ, it is an isometry of the smaller space.
    """
    U, _, Vh = torch.linalg.svd(cross.double(), full_matrices=False)
    rotation: torch.Tensor = U @ Vh
    return rotation


@dataclass(frozen=True)
class _Heard:
    """Some rows of a layer's input and output for one example, float64."""

    inputs: torch.Tensor
    outputs: torch.Tensor


_Pair = tuple[str, str]  # the keys of a source weight and of a target weight


@dataclass
class ProcrustesMaps:
    """See theseus, and transfer.maps.Maps. What was heard and found once is kept."""

    source: Running
    target: Running
    examples: int
    positions: int
    seed: int
    _cross: dict[_Pair, _Heard] = field(default_factory=dict)  # inputs n_s x n_t, outputs m_s x m_t
    _unheard: dict[_Pair, str] = field(default_factory=dict)
    _found: dict[Hashable, PairMaps] = field(default_factory=dict)

    def prepare(self, pairs: Sequence[ModulePair]) -> None:
        """Runs both models on all examples and adds up the cross-covariances of their layers."""
        new = [pair for pair in pairs if (pair.source.key, pair.target.key) not in self._unheard]
        for pair in new:
            at = (pair.source.key, pair.target.key)
            self._unheard[at] = why_not_heard(pair.source, self.source.layers) or why_not_heard(
                pair.target, self.target.layers
            )
        heard = {(pair.source.key, pair.target.key) for pair in new}
        wanted = [at for at in heard if not self._unheard[at]]
        for example in range(self.examples if wanted else 0):
            ours = self._listen(self.source, {key for key, _ in wanted}, example)
            theirs = self._listen(self.target, {key for _, key in wanted}, example)
            for at in wanted:
                self._add(at, ours.get(at[0]), theirs.get(at[1]))

    def of(self, both: Sequence[tuple[ModulePair, BothWeights]]) -> list[PairMaps]:
        found: list[PairMaps] = []
        for pair, weights in both:
            assert isinstance(weights, WeightRows)  # which knows its rows
            at = (pair.source, pair.target, pair.rows, weights.rows)
            if at not in self._found:
                self._found[at] = self._maps(pair, weights.rows)
            found.append(self._found[at])
        return found

    def _maps(self, pair: ModulePair, rows: Slice | None) -> PairMaps:
        at = (pair.source.key, pair.target.key)
        if at not in self._cross:
            return _RotatedPairMaps(None, None, self._unheard[at] or "its layer did not run")
        cross = self._cross[at]
        ours = _narrow(_outputs(pair.source, cross.outputs.shape[0]), pair.rows, rows)
        theirs = _narrow(_outputs(pair.target, cross.outputs.shape[1]), rows)
        read = _inputs(pair.source, cross.inputs.shape[0])
        reads = _inputs(pair.target, cross.inputs.shape[1])
        return _RotatedPairMaps(
            procrustes(cross.inputs[read][:, reads]), procrustes(cross.outputs[ours][:, theirs])
        )

    def _add(self, at: _Pair, ours: _Heard | None, theirs: _Heard | None) -> None:
        if ours is None or theirs is None:
            return
        sides = ((ours.inputs, theirs.inputs), (ours.outputs, theirs.outputs))
        if any(len(one) != len(other) for one, other in sides):
            self._unheard[at] = "its positions in both models differ"
            self._cross.pop(at, None)
            return
        inputs, outputs = (one.T @ other for one, other in sides)
        before = self._cross.get(at)
        if before is not None:
            inputs, outputs = before.inputs + inputs, before.outputs + outputs
        self._cross[at] = _Heard(inputs, outputs)

    def _listen(self, running: Running, keys: set[str], example: int) -> dict[str, _Heard]:
        """By the key; where a layer runs more than once for an example, the first time counts."""
        heard: dict[str, _Heard] = {}

        def hear(key: str, layer: nn.Module, inputs: torch.Tensor, output: torch.Tensor) -> None:
            if key not in heard:
                both = (self._rows(layer, side, example) for side in (inputs, output))
                heard[key] = _Heard(*both)

        with torch.no_grad(), _hooked({key: running.layers[key] for key in keys}, hear):
            running.run(example)
        return heard

    def _rows(self, layer: nn.Module, values: torch.Tensor, example: int) -> torch.Tensor:
        values = values.movedim(1, -1) if is_convolution(layer) else values
        rows = values.reshape(-1, values.shape[-1])
        if len(rows) > self.positions:
            generator = torch.Generator().manual_seed(self.seed + example)
            chosen = torch.randperm(len(rows), generator=generator)[: self.positions]
            rows = rows[chosen.to(rows.device)]
        return rows.detach().cpu().double()


@dataclass(frozen=True)
class _RotatedPairMaps:
    """The maps of one pair, inputs n_s x n_t and outputs m_s x m_t; None for a copy."""

    T_in: torch.Tensor | None
    T_out: torch.Tensor | None
    note: str = ""
    measures = Measures()

    def moved(self, update: Update, module: str) -> Moved:
        if self.T_in is None or self.T_out is None:
            return Moved(update, f"copied: {self.note}")
        if isinstance(update, LowRankUpdate):
            up, down = self.T_out.T @ update.up.double(), self._read(update.down.double())
            return Moved(LowRankUpdate(up.to(update.up), down.to(update.up)))
        delta = self.T_out.T @ self._read(update.delta.double())
        return Moved(DenseUpdate(delta.to(update.delta)))

    def quadrants(self, update: Update) -> None:
        return None

    def _read(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of the source's inputs, channels x places of the kernel, as the target's."""
        assert self.T_in is not None
        channels = rows.reshape(len(rows), len(self.T_in), -1)
        return torch.einsum("rck,cd->rdk", channels, self.T_in).flatten(1)


def _outputs(ref: WeightRef, count: int) -> torch.Tensor:
    """Which outputs of a layer are those of a weight or of its part, in the order of training."""
    part = ref.part if ref.part is not None and ref.part.dim == 0 else None
    return ref.reordered(_narrow(torch.arange(count), part))


def _inputs(ref: WeightRef, count: int) -> torch.Tensor:
    part = ref.part if ref.part is not None and ref.part.dim == 1 else None
    return _narrow(torch.arange(count), part)


def _narrow(indices: torch.Tensor, *slices: Slice | None) -> torch.Tensor:
    """Indices of a slice of a slice."""
    for rows in filter(None, slices):
        indices = indices.narrow(0, rows.start, rows.length)
    return indices


@contextmanager
def _hooked(layers: Mapping[str, nn.Module], hear: Callable[..., None]) -> Iterator[None]:
    """Tells `hear` the key, the layer, its first input and its output. No hook is left behind."""

    def hook(key: str) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], None]:
        return lambda layer, inputs, output: hear(key, layer, inputs[0], output)

    handles = [layer.register_forward_hook(hook(key)) for key, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
