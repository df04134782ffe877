"""Every way to move a LoRA of a language model, by the name of its row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from benchmarks.evidence.patched import patched
from benchmarks.evidence.rivals import Running, casa_of_nothing, orthogonal
from benchmarks.evidence.rivals.theseus import ProcrustesMaps, rotated
from prolora import TransferSettings, read_adapter_file
from prolora.adapters import Adapter
from prolora.algebra.kept import Kept
from prolora.recording.calibrated import transfer_recorded
from prolora.recording.network import Network, Prompt
from prolora.recording.record import Clean, RecordingSettings, record
from prolora.recording.recording import Recording
from prolora.recording.refine import RefineSettings, refine
from prolora.transfer.job import transfer_resolved
from prolora.transfer.resolve import ResolvedLora, resolve

from .setting import Setting
from .train import RANK, ROW, open_model
from .upper import in_bfloat16

MODES = ("copy", "subspace", "prolora", "full", "casa")
_CASA = TransferSettings(mode="casa", rank=RANK, threshold=0.0)  # at the LoRA's own rank
_KEPT = Kept()  # subspaces, from one LoRA to the next


@dataclass(frozen=True)
class Way:
    """From one of the two models to the other; what all seeds share is made once."""

    source: str
    target: str
    setting: Setting

    @property
    def name(self) -> str:
        return f"{self.source} to {self.target}"

    @cached_property
    def models(self) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
        return _opened(self.setting.base(self.source)), _opened(self.setting.base(self.target))

    @cached_property
    def sampled(self) -> torch.Tensor:
        """Text that the source makes up, N x ROW: nothing else is heard."""
        source, _ = self.models
        start = torch.full((self.setting.heard, 1), self.setting.tokenizer.bos_token_id)
        torch.manual_seed(0)
        with torch.inference_mode(), in_bfloat16():
            text = source.generate(
                input_ids=start,
                attention_mask=torch.ones_like(start),
                min_new_tokens=ROW,
                max_new_tokens=ROW,
                do_sample=True,
                top_k=0,
                pad_token_id=self.setting.tokenizer.pad_token_id,
            )
        return text[:, 1:].clone()  # outside of inference mode, so that gradients can be had

    @cached_property
    def rotations(self) -> ProcrustesMaps:
        """Theseus's maps, by both models on that text."""
        both = (Running(layers_of(model), self._reading(model)) for model in self.models)
        return ProcrustesMaps(*both, len(self.sampled), positions=ROW, seed=0)

    def _reading(self, model: LlamaForCausalLM) -> Callable[[int], object]:
        def read(index: int) -> object:
            with torch.inference_mode(), in_bfloat16():
                return model.model(input_ids=self.sampled[index : index + 1])

        return read


@dataclass(frozen=True)
class Case:
    """One LoRA, trained with one seed, on its way."""

    way: Way
    seed: int
    _made: dict[str, Sequence[Adapter]] = field(default_factory=dict)

    @cached_property
    def lora(self) -> ResolvedLora:
        setting, source = self.way.setting, self.way.source
        return resolve(read_adapter_file(setting.lora(source, self.seed)), setting.core(source))

    @cached_property
    def recording(self) -> Recording:
        """What the source says of the LoRA on text of its own.

        A latent is a sequence of token embeddings; the model's answer is its last hidden state.
        There is no noise, so the one level is 1.
        """
        source, _ = self.way.models
        with_lora = self.way.setting.with_lora(self.way.source, self.seed)
        latents = source.model.embed_tokens(self.way.sampled).detach()
        count = len(latents)
        clean = Clean(latents, (Prompt({}),), torch.zeros(count, dtype=torch.long))
        settings = RecordingSettings(levels=1, positions=count * ROW)
        networks = network_of(source), network_of(with_lora)
        return record(self.lora, *networks, clean, [1.0] * count, "tokens", settings)

    def moved(self, row: str) -> Sequence[Adapter]:
        """The LoRA as a row moves it."""
        if row not in self._made:
            self._made[row] = ROWS[row](self)
        return self._made[row]

    def measure(self, row: str) -> dict[str, float]:
        _, target = self.way.models
        core = self.way.setting.core(self.way.target)
        with patched(layers_of(target), core, self.moved(row)):
            return self.way.setting.measure(target, self.way.target)


@cache
def _opened(folder: Path) -> LlamaForCausalLM:
    """Both ways have the same two."""
    return open_model(folder)


def network_of(model: LlamaForCausalLM) -> Network:
    """A language model as recording and refinement see it."""

    def hidden(embedded: torch.Tensor, _: torch.Tensor, __: Sequence[Prompt]) -> torch.Tensor:
        with in_bfloat16():
            return model.model(inputs_embeds=embedded).last_hidden_state.float()

    return Network(
        root=model,
        layers=layers_of(model),
        denoise=hidden,
        output_scale=torch.ones_like,
        noised=lambda clean, noise, sigmas: clean,
    )


def layers_of(model: LlamaForCausalLM) -> dict[str, torch.nn.Module]:
    return {
        f"{name}.weight": layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


def _by_weights(mode: str) -> Callable[[Case], Sequence[Adapter]]:
    settings = _CASA if mode == "casa" else TransferSettings(mode=mode, threshold=0.0)

    def move(case: Case) -> Sequence[Adapter]:
        core = case.way.setting.core(case.way.target)
        return transfer_resolved(case.lora, core, settings, kept=_KEPT).adapters

    return move


def _half(case: Case) -> Sequence[Adapter]:
    """What a slider of the strength does as well."""
    return [replace(adapter, up=adapter.up / 2, parts={}) for adapter in case.moved("copy")]


def _theseus(case: Case) -> Sequence[Adapter]:
    core = case.way.setting.core(case.way.target)
    return rotated(case.lora, core, case.way.rotations).adapters


def _calibrated(case: Case) -> Sequence[Adapter]:
    _, target = case.way.models
    core, settings = case.way.setting.core(case.way.target), TransferSettings(threshold=0.0)
    network = network_of(target)
    return transfer_recorded(case.lora, core, case.recording, network, settings).adapters


def _refined(case: Case) -> Sequence[Adapter]:
    _, target = case.way.models
    core, settings = case.way.setting.core(case.way.target), RefineSettings(batch=8)
    moved = case.moved("calibrated")
    return refine(moved, core, network_of(target), case.recording, settings).adapters


HALF = "copy at half strength"
ALIKE = ("casa of nothing",)  # whatever the LoRA says, so of the first seed alone
# In the order in which they are measured: what matters most comes first.
ROWS: dict[str, Callable[[Case], Sequence[Adapter]]] = {
    "copy": _by_weights("copy"),
    HALF: _half,
    "full": _by_weights("full"),
    "calibrated": _calibrated,
    "prolora": _by_weights("prolora"),
    "subspace": _by_weights("subspace"),
    "casa": _by_weights("casa"),
    "casa of nothing": lambda case: (
        casa_of_nothing(case.lora, case.way.setting.core(case.way.target), _CASA).adapters
    ),
    "orthogonal": lambda case: (
        orthogonal(case.lora, case.way.setting.core(case.way.target)).adapters
    ),
    "theseus": _theseus,
    "refined": _refined,
}
