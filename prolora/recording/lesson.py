"""What a target is to answer on the recorded latents, and how far it is from that."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..errors import ProLoRAError
from ..progress import Progress
from .network import Network
from .recording import Recording
from .teacher import along, answers, at_once, derivative


@dataclass(frozen=True)
class Lesson:
    """The recorded latents, for a network.

    Attributes:
        wanted: N x ..., the derivatives of the teacher.
        progress: called before each portion.
    """

    network: Network
    recording: Recording
    wanted: torch.Tensor
    progress: Progress

    @classmethod
    def of(
        cls,
        network: Network,
        bare: Network,
        recording: Recording,
        own: float,
        progress: Progress,
    ) -> "Lesson":
        """The lesson of the source, with a share of what tells the target from it.

        Args:
            network: what learns.
            bare: the target without the LoRA.
            own: see RefineSettings.
        """
        wanted = recording.derivatives.float()
        if own:
            everyone = torch.arange(len(recording))
            latents, prompts = recording.latents, recording.prompts_at(everyone)
            target = answers(bare, latents, recording.sigmas, prompts, progress, "the target")
            wanted = wanted + own * (target - recording.derivatives_without.float())
        return cls(network, recording, wanted, progress)

    def losses(self, examples: torch.Tensor, done: int, total: int) -> Iterator[torch.Tensor]:
        """The mean squared error of what the network puts out, in portions that run at once.

        Args:
            done, total: steps, for progress.

        Yields:
            The parts of it, whose sum is the loss on all examples.
        """
        for some in self._portions(examples):
            self.progress(done, total, "refining")
            yield self._loss(some) * (len(some) / len(examples))

    @torch.no_grad()
    def asked(self, examples: torch.Tensor, done: int, total: int) -> float:
        """The loss, without gradients; see losses."""
        return sum(loss.item() for loss in self.losses(examples, done, total))

    def _portions(self, examples: torch.Tensor) -> Sequence[torch.Tensor]:
        return torch.split(examples, at_once(self.recording.latents))

    def _loss(self, examples: torch.Tensor) -> torch.Tensor:
        recording = self.recording
        latents, sigmas = recording.latents[examples].float(), recording.sigmas[examples]
        denoised = self.network.denoise(latents, sigmas, recording.prompts_at(examples)).cpu()
        missing = derivative(latents, denoised, sigmas) - self.wanted[examples]
        # x0 = x - sigma d, and x0 moves by output_scale with what the network puts out.
        weight = sigmas / self.network.output_scale(sigmas).cpu()
        loss = (missing * along(weight, missing)).square().mean()
        if not torch.isfinite(loss):
            finite = missing.isfinite().flatten(1).all(dim=1)
            broken = ", ".join(f"{sigma:.4g}" for sigma in sigmas[~finite].tolist())
            raise ProLoRAError(
                f"The target's prediction at sigma {broken} holds NaN or infinity. Load the model "
                "in another precision (fp32 or bf16), and see whether its pictures are whole."
            )
        return loss
