"""Makes a recording: of a LoRA, a source that runs, and clean latents that were sampled from it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..algebra.updates import LowRankUpdate
from ..errors import ProLoRAError
from ..models.model import Model
from ..models.module_names import is_text_encoder
from ..models.outline import outline_of
from ..pairing.module_pairs import ResolvedAdapter
from ..progress import Progress, silent
from ..transfer.resolve import ResolvedLora
from .listening import Examples
from .network import Network, Prompt, TextNetwork
from .readouts import Heard, record_readouts
from .recording import ReadOut, Recording, noising_of
from .teacher import answers, steps

KEPT_DTYPE = torch.float16  # of latents and derivatives
LARGE_SIGMA = 20.0  # beyond it float16 is too coarse for derivatives: sigma times their rounding
HEARD_RANK = 64  # at most, of a family without a low rank


@dataclass(frozen=True)
class RecordingSettings:
    """The choices of a recording, with their defaults.

    Attributes:
        levels: how many noised latents are made of each clean one.
        positions: read-outs of each module, over all latents.
        seed: of noise and positions.
        schedule: the noise levels that a few-step target takes, from the first to the last (0);
            None for the whole schedule.
        cfg: guidance of the source on the way between two levels of that schedule.
        small_steps: how many Euler steps the source takes from one of them to the next.
        said: more of how it was made, for the file.

    Raises:
        ProLoRAError: a value is out of its range.
    """

    levels: int = 2
    positions: int = 256
    seed: int = 0
    schedule: tuple[float, ...] | None = None
    cfg: float = 1.0
    small_steps: int = 3
    said: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("levels", "positions", "small_steps"):
            if getattr(self, name) < 1:
                raise ProLoRAError(f"A recording needs {name} of 1 or more, not {self._of(name)}.")
        if self.schedule is None:
            return
        falls = all(a > b for a, b in zip(self.schedule, self.schedule[1:], strict=False))
        if len(self.schedule) < 2 or not falls or self.schedule[-1] < 0:
            raise ProLoRAError(
                "The SIGMAS must fall from the first step's noise level to the last one's, and be "
                f"two or more: {', '.join(f'{sigma:g}' for sigma in self.schedule) or 'none'}. "
                "Connect the schedule that the target is sampled with."
            )

    def _of(self, name: str) -> int:
        return int(getattr(self, name))


@dataclass(frozen=True)
class Clean:
    """What was sampled from the source, with the LoRA or without.

    Attributes:
        latents: S x ..., in the model's space.
        prompts: the ones that they were sampled for.
        prompt_of: S.
        negative: for guidance; None for none.
    """

    latents: torch.Tensor
    prompts: tuple[Prompt, ...]
    prompt_of: torch.Tensor
    negative: Prompt | None = None


def record(
    lora: ResolvedLora,
    source: Network,
    with_lora: Network,
    clean: Clean,
    sigmas: Sequence[float],
    latent_format: str,
    settings: RecordingSettings,
    progress: Progress = silent,
    text: TextNetwork | None = None,
) -> Recording:
    """Listens to the source on noised latents, without the LoRA and with it.

    Args:
        source, with_lora: the source, and the same with the LoRA.
        sigmas: the levels to noise to, above 0: one for each noised latent, of which every clean
            one gets `settings.levels`. For a schedule its own levels are taken instead.
        text: the source's text encoder, to hear the LoRA's modules in it.

    Raises:
        ProLoRAError: there is nothing to record, or the source answers what is no number.
    """
    if not len(clean.latents):
        raise ProLoRAError("Nothing was sampled from the source. Choose one sample or more.")
    latents, levels, following, sample_of = _noised(source, clean, sigmas, settings)
    prompt_of = clean.prompt_of[sample_of]
    prompts = [clean.prompts[int(index)] for index in prompt_of]

    def run(index: int) -> object:
        one = slice(index, index + 1)
        return source.denoise(latents[one].float(), levels[one], prompts[one])

    heard, heard_text, unheard = modules_of(lora)
    examples = Examples(len(latents), run, "the source")
    readouts, left_out = record_readouts(
        heard, source.layers, examples, settings.positions, settings.seed, progress
    )
    text_readouts, text_left_out = _of_text(heard_text, text, clean.prompts, settings, progress)
    answered = [
        _answers(
            network, latents, levels, following, prompts, clean.negative, settings, progress, of
        )
        for network, of in ((source, "the source"), (with_lora, "the source with its LoRA"))
    ]
    kept = KEPT_DTYPE if float(levels.max()) <= LARGE_SIGMA else torch.float32
    return Recording(
        lora=lora.file.digest,
        source=outline_of(lora.source, lora.weights),
        latent_format=latent_format,
        latents=latents,
        sigmas=levels,
        prompts=clean.prompts,
        prompt_of=prompt_of,
        sample_of=sample_of,
        noising=noising_of(source.noised, levels),
        derivatives=answered[1].to(kept),
        derivatives_without=answered[0].to(kept),
        next_sigmas=following,
        readouts=readouts,
        text_readouts=text_readouts,
        left_out=unheard | left_out | text_left_out,
        settings={"lora": lora.file.name, **_described(settings, clean)},
    )


def modules_of(lora: ResolvedLora) -> tuple[list[Heard], list[Heard], dict[str, str]]:
    """What of a LoRA can be heard, in the diffusion model and in the text encoder, and why not."""
    unet: list[Heard] = []
    text: list[Heard] = []
    why: dict[str, str] = dict(lora.shadowed)
    for module in lora.adapters:
        name = module.adapter.name
        if name in why:
            continue
        if len(module.shape) < 2:
            why[name] = "its weight is a vector"
        elif module.adapter.reshape:
            why[name] = "its weight is padded"
        else:
            factors, is_low = heard_factors(module, lora.source)
            heard = Heard(name, module.ref, factors.down.float(), keeps_down=not is_low)
            (text if is_text_encoder(name) else unet).append(heard)
    return unet, text, why


def heard_factors(module: ResolvedAdapter, source: Model) -> tuple[LowRankUpdate, bool]:
    """The factors that a module is heard through, and whether they are all of its update.

    The source's weight is read only for a family that is made of it.
    """
    unknown = torch.full((), torch.nan).expand(module.shape)
    update = module.adapter.update(unknown)
    if not math.isfinite(update.energy()):
        update = module.adapter.update(
            source.weight(module.ref, torch.device("cpu"), torch.float32)
        )
    if isinstance(update, LowRankUpdate):
        return update, True
    factors = update.truncate(0).factors
    return (update.truncate(HEARD_RANK).factors if factors.rank > HEARD_RANK else factors), False


def _noised(
    source: Network, clean: Clean, sigmas: Sequence[float], settings: RecordingSettings
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Noised latents as they are kept, their levels, the levels after, and whose sample each is."""
    count = len(clean.latents) * settings.levels
    generator = torch.Generator().manual_seed(settings.seed)
    sample_of = torch.arange(len(clean.latents)).repeat_interleave(settings.levels)
    following = None
    if settings.schedule is not None:
        schedule = torch.tensor(settings.schedule)
        step = _steps_of(clean.prompt_of, settings.levels, len(schedule) - 1)
        levels, following = schedule[step], schedule[step + 1]
    elif len(sigmas) != count:
        raise ProLoRAError(f"{count} noised latents need as many sigmas, not {len(sigmas)}.")
    else:
        order = torch.randperm(count, generator=generator)
        levels = torch.tensor(list(sigmas), dtype=torch.float32)[order]
    chosen = clean.latents[sample_of].float()
    noise = torch.randn(chosen.shape, generator=generator)
    latents = source.noised(chosen, noise, levels).to(KEPT_DTYPE)
    return latents, levels, following, sample_of


def _steps_of(prompt_of: torch.Tensor, levels: int, steps: int) -> torch.Tensor:
    """Which step of a schedule each noised latent is for: every prompt meets all steps in turn."""
    found: list[int] = []
    times: Counter[int] = Counter()
    for prompt in prompt_of.tolist():
        found += [(prompt + times[prompt] + level) % steps for level in range(levels)]
        times[prompt] += 1
    return torch.tensor(found)


def _of_text(
    heard: list[Heard],
    text: TextNetwork | None,
    prompts: Sequence[Prompt],
    settings: RecordingSettings,
    progress: Progress,
) -> tuple[dict[str, ReadOut], dict[str, str]]:
    texts = [prompt.text for prompt in prompts]
    if not heard:
        return {}, {}
    if text is None:
        return {}, {m.name: "no text encoder was connected" for m in heard}
    if not all(texts):
        return {}, {m.name: "the prompts' texts are not known" for m in heard}
    examples = Examples(len(texts), lambda index: text.encode(texts[index]), "the text encoder")
    return record_readouts(
        heard, text.layers, examples, settings.positions, settings.seed, progress
    )


def _answers(
    network: Network,
    latents: torch.Tensor,
    levels: torch.Tensor,
    following: torch.Tensor | None,
    prompts: list[Prompt],
    negative: Prompt | None,
    settings: RecordingSettings,
    progress: Progress,
    of: str,
) -> torch.Tensor:
    if following is None:
        return answers(network, latents, levels, prompts, progress, of)
    return steps(
        network,
        latents,
        levels,
        following,
        prompts,
        negative,
        settings.cfg,
        settings.small_steps,
        progress,
        of,
    )


def _described(settings: RecordingSettings, clean: Clean) -> dict[str, str]:
    schedule = settings.schedule
    return {
        "samples": str(len(clean.latents)),
        "levels": str(settings.levels),
        "positions": str(settings.positions),
        "seed": str(settings.seed),
        **(
            {}
            if schedule is None
            else {
                "schedule": " ".join(f"{sigma:.6g}" for sigma in schedule),
                "cfg": f"{settings.cfg:g}",
                "small_steps": str(settings.small_steps),
            }
        ),
        **settings.said,
    }
