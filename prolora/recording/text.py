"""What was recorded and what a refinement brought, in a few lines for people."""

from collections.abc import Iterator, Mapping

from ..errors import bullets, one_line, truncated_list
from .recording import Recording
from .refine import Refined

_LISTED = 2  # how many modules of a reason are named before the rest is counted
_REASONS, _SETTINGS = 5, 20  # how many are listed at most


def describe(recording: Recording) -> str:
    """What a recording holds."""
    heard = len(recording.readouts) + len(recording.text_readouts)
    text = len(recording.text_readouts)
    of_text = f", {text} of them in the text encoder" if text else ""
    verdict = f"{heard} of {heard + len(recording.left_out)} modules heard{of_text}"
    return "\n".join((verdict, *bullets(_lines(recording))))


def describe_refined(refined: Refined) -> str:
    """The losses, and what was not refined."""
    before = refined.held_out[0][1]
    after = dict(refined.held_out)[refined.best]
    verdict = f"loss on the latents kept apart: before {before:.4g}, after {after:.4g}"
    if not refined.best:
        verdict = f"NOTHING WAS GAINED, so the LoRA is as it came; {verdict}"
    return "\n".join((verdict, *bullets(_refined_lines(refined))))


def _lines(recording: Recording) -> Iterator[str]:
    said = {one_line(name): one_line(value) for name, value in recording.settings.items()}
    source = one_line(f"{recording.source.name} ({recording.source.architecture})")
    yield f"recording of {said.pop('lora', 'a LoRA')}, from {source}"
    samples, levels = said.pop("samples", "?"), said.pop("levels", "?")
    sides = " x ".join(map(str, recording.latents.shape[2:]))
    yield (
        f"{samples} samples of {len(recording.prompts)} prompts, {levels} noise levels each: "
        f"{len(recording)} noised latents of {sides} ({one_line(recording.latent_format)})"
    )
    yield from _reasons("not heard", recording.left_out)
    made = [f"{name} {value}" for name, value in said.items()]
    yield ", ".join(truncated_list(made, _SETTINGS))
    yield f"{recording.size / 2**20:.1f} MB"


def _refined_lines(refined: Refined) -> Iterator[str]:
    taught = len(refined.adapters) - len(refined.left_out)
    yield (
        f"{taught} of {len(refined.adapters)} modules refined, {len(refined.losses)} steps, best "
        f"after step {refined.best}"
    )
    if refined.skipped:
        yield f"{refined.skipped} steps came to nothing: too large for half precision"
    yield from _reasons("not refined", refined.left_out)


def _reasons(what: str, modules: Mapping[str, str]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for name, why in modules.items():
        by_reason.setdefault(one_line(why), []).append(one_line(name))
    lines = [
        f"{len(names)} {what}, {why}: {', '.join(truncated_list(names, _LISTED))}"
        for why, names in by_reason.items()
    ]
    yield from truncated_list(lines, _REASONS)
