"""A recording: what a source says of its LoRA, small enough to lie beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..errors import ProLoRAError
from ..models.model import Model
from ..transfer.modes import BY_WEIGHTS
from .network import Noised, Prompt


def noising_of(noised: Noised, sigmas: torch.Tensor) -> torch.Tensor:
    """How a model mixes latents and noise at some levels, N x 2; see Recording."""
    one, none = torch.ones(len(sigmas), 1, 1, 1), torch.zeros(len(sigmas), 1, 1, 1)
    both = noised(one, none, sigmas), noised(none, one, sigmas)
    return torch.stack([part.flatten().float().cpu() for part in both], dim=1)


@dataclass(frozen=True)
class ReadOut:
    """What a module of a LoRA reads: z = x down^T at some positions of some examples.

    Attributes:
        examples, positions: p each: which latent (or text), in order, and where in the layer's
            input.
        counts: p, how many positions that input had.
        values: z, p x r, float32.
        down: r x n; None where the LoRA's file tells it. A family without a low rank is heard
            through its truncated factors, whose signs and order the file does not tell.
    """

    examples: torch.Tensor
    positions: torch.Tensor
    counts: torch.Tensor
    values: torch.Tensor
    down: torch.Tensor | None = None


@dataclass(frozen=True)
class Recording:
    """What is kept of a source and its LoRA. Activations are not.

    Attributes:
        lora: AdapterFile.digest of the LoRA.
        source: the source's names and shapes, without its weights; see models/outline.py.
        latent_format: the host's name for the kind of latents.
        latents: N x ..., noised, in the model's space; float16.
        sigmas: N.
        prompts: what they were sampled for.
        prompt_of: N, which prompt each latent has.
        sample_of: N, which clean sample each latent was.
        noising: N x 2, what the source noises 1 with noise of 0 to, and 0 with noise of 1.
        derivatives: N x ..., (latents - denoised) / sigmas with the LoRA: where an Euler step
            goes; the velocity of a flow model, the noise of an eps model. float16, or float32
            where a sigma is large. Where the recording is for a schedule, the mean over small steps
            to the next level.
        derivatives_without: the same without the LoRA.
        next_sigmas: N, the level that each derivative leads to; None for the whole schedule.
        readouts: module of the LoRA -> what it reads of the latents.
        text_readouts: the same of the text encoder's modules; examples count the prompts.
        left_out: module -> why it was not heard.
        settings: how it was made, as text.
    """

    lora: str
    source: Model
    latent_format: str
    latents: torch.Tensor
    sigmas: torch.Tensor
    prompts: tuple[Prompt, ...]
    prompt_of: torch.Tensor
    sample_of: torch.Tensor
    noising: torch.Tensor
    derivatives: torch.Tensor
    derivatives_without: torch.Tensor
    next_sigmas: torch.Tensor | None
    readouts: Mapping[str, ReadOut]
    text_readouts: Mapping[str, ReadOut]
    left_out: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.latents)

    def prompts_at(self, examples: torch.Tensor) -> list[Prompt]:
        """The prompts of some latents."""
        return [self.prompts[int(index)] for index in self.prompt_of[examples]]

    @property
    def size(self) -> int:
        """In bytes, as it is kept."""
        heard = (*self.readouts.values(), *self.text_readouts.values())
        tensors = [
            *(self.latents, self.derivatives, self.derivatives_without),
            *(tensor for prompt in self.prompts for tensor in prompt.tensors.values()),
            *(readout.values for readout in heard),
            *(readout.down for readout in heard if readout.down is not None),
            *(readout.examples for readout in heard),
            *(readout.positions for readout in heard),
            *(readout.counts for readout in heard),
        ]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def check_lora(self, digest: str, name: str) -> None:
        """Refuses a recording of another LoRA.

        Raises:
            ProLoRAError: it is one.
        """
        if digest != self.lora:
            raise ProLoRAError(
                f"The recording is of another LoRA ({self.settings.get('lora', 'unknown')}) than "
                f"{name}, or of another version of it. Choose the LoRA that was recorded, or "
                "record this one."
            )

    def check_noise(self, noised: Noised, target: str) -> None:
        """Refuses a target that adds noise in another way: an eps model beside one of flows.

        Args:
            noised: the target's, see Network.

        Raises:
            ProLoRAError: it is one.
        """
        if not torch.allclose(noising_of(noised, self.sigmas), self.noising, rtol=1e-2, atol=1e-3):
            raise ProLoRAError(
                f"The target {target} adds noise to latents in another way than the recorded "
                f"source {self.source.name} (one predicts flows and the other noise, or their "
                "levels differ), so it cannot listen to this recording. Use mode "
                f"{BY_WEIGHTS}."
            )

    def check_latents(self, latent_format: str, channels: int, target: str) -> None:
        """Refuses a target of other latents.

        Raises:
            ProLoRAError: it is one.
        """
        ours = self.latents.shape[1]
        if (latent_format, channels) != (self.latent_format, ours):
            raise ProLoRAError(
                f"The recording has latents of {self.latent_format} ({ours} channels), and the "
                f"target {target} draws latents of {latent_format} ({channels} channels). A "
                "recording serves targets of the source's own kind of latents."
            )
