"""Recordings: as files, made, listened to, refined by."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from prolora.files.safetensors import read_safetensors, write_safetensors
from prolora.recording.file import read_recording, write_recording
from prolora.recording.record import Clean, RecordingSettings, record
from prolora.recording.recording import Recording
from prolora.recording.refine import RefineSettings, refine
from prolora.transfer.job import transfer_lora
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings

from ..running_models import clean, drifted, lora_file, model_of, network_of, recorded, source
from .case import Case, Table, Tensors, written

NAME = "style.recording.safetensors"
FILE = lora_file()
Damage = Callable[[Tensors, dict[str, str]], object]


@cache
def recording() -> Recording:
    return recorded(FILE)


def damaged(damage: Damage) -> Callable[[], object]:
    def call() -> object:
        write_recording(recording(), Path(NAME))
        tensors, metadata = map(dict, read_safetensors(Path(NAME)))
        damage(tensors, metadata)
        write_safetensors(tensors, Path(NAME), metadata)
        return read_recording(Path(NAME))

    return call


def changed(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], object]:
    return damaged(lambda tensors, _: tensors.update({key: change(tensors[key].clone())}))


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor.flatten()[0] = torch.nan
    return tensor


def cut() -> object:
    write_recording(recording(), Path(NAME))
    return read_recording(written(NAME, Path(NAME).read_bytes()[:-1000]))


def head(text: str) -> Callable[[], object]:
    return damaged(lambda _, metadata: metadata.update(prolora_recording_head=text))


def made(sigmas: list[float], samples: Clean | None = None, broken: bool = False) -> object:
    network = network_of(source())
    heard = network
    if broken:
        heard = replace(network, denoise=lambda latents, sigmas, prompts: latents * torch.nan)
    given = resolve(FILE, model_of(source())), network, heard, samples or clean(), sigmas, "Small"
    return record(*given, RecordingSettings(levels=3))


def nothing_sampled() -> object:
    none = Clean(torch.empty(0, 4, 8, 8), clean().prompts, torch.empty(0, dtype=torch.long))
    return made([], none)


def refined(adapters=FILE.adapters, of: Recording | None = None, broken: bool = False) -> object:
    target = drifted(0.2)
    network = network_of(target)
    if broken:
        network = replace(network, denoise=lambda latents, sigmas, prompts: latents * torch.nan)
    return refine(
        adapters, model_of(target, "B"), network, of or recording(), RefineSettings(steps=2)
    )


def one_sample() -> object:
    found = recording()
    return refined(of=replace(found, sample_of=torch.zeros_like(found.sample_of)))


def as_a_source() -> object:
    models = recording().source, model_of(drifted(0.2), "B")
    return transfer_lora(FILE, *models, TransferSettings(mode="full"))


FILES = Table(
    "Recordings as files",
    "Load Recording, Load LoRA for Model",
    (
        Case("another file", damaged(lambda _, metadata: metadata.clear()), "is no recording"),
        Case(
            "a recording of a later ProLoRA",
            damaged(lambda _, m: m.update(prolora_recording="9")),
            "version 9",
        ),
        Case("a recording that was cut", cut, "ends early"),
        Case("a head that is no JSON", head("{"), "not a whole recording"),
        Case("a head that is a list", head("[]"), "not a whole recording"),
        Case(
            "no head",
            damaged(lambda _, m: m.pop("prolora_recording_head")),
            "not a whole recording",
        ),
        Case(
            "no latents",
            damaged(lambda tensors, _: tensors.pop("latents")),
            "not a whole recording",
        ),
        Case(
            "fewer answers than latents",
            changed("derivatives", lambda t: t[1:]),
            "not of one number",
        ),
        Case(
            "answers of another size",
            changed("derivatives", lambda t: t[..., 1:]),
            "number and shape",
        ),
        Case("answers that are NaN", changed("derivatives", with_nan), "NaN"),
        Case(
            "latents that are vectors",
            changed("latents", lambda t: t.flatten()),
            "its latents are none",
        ),
        Case("latents without noise", changed("sigmas", lambda t: t * 0), "without noise"),
        Case("a prompt that is not there", changed("prompt_of", lambda t: t + 9), "not there"),
        Case(
            "places that are not there",
            changed("readouts.positions.proj", lambda t: t - 99),
            "contradict",
        ),
    ),
)

MADE = Table(
    "Recordings that are made or used",
    "Record Source LoRA, ProLoRA Transfer (mode calibrated), Refine Transferred LoRA",
    (
        Case("no sample", nothing_sampled, "Nothing was sampled"),
        Case("no noise level", lambda: RecordingSettings(levels=0), "levels of 1 or more"),
        Case(
            "fewer than no positions",
            lambda: RecordingSettings(positions=-1),
            "positions of 1 or more",
        ),
        Case("SIGMAS that rise", lambda: RecordingSettings(schedule=(0.5, 1.0, 0.0)), "must fall"),
        Case("one SIGMA alone", lambda: RecordingSettings(schedule=(1.0,)), "two or more"),
        Case("a source that answers NaN", lambda: made([0.5] * 18, broken=True), "holds NaN"),
        Case(
            "a recording of another LoRA",
            lambda: recording().check_lora("0" * 64, "style.safetensors"),
            "of another LoRA",
        ),
        Case(
            "a target of other latents",
            lambda: recording().check_latents("Large", 16, "B"),
            "16 channels",
        ),
        Case(
            "a recording in the place of the source's weights",
            as_a_source,
            "needs the weights of the source",
        ),
        Case("a recording of one sample, to refine by", one_sample, "Record more samples"),
        Case("a target that answers NaN", lambda: refined(broken=True), "holds NaN"),
        Case("fewer than no steps", lambda: RefineSettings(steps=-1), "0 steps or more"),
        Case("a batch of nothing", lambda: RefineSettings(batch=0), "a batch of 1 or more"),
        Case("a rate of 1", lambda: RefineSettings(rate=1.0), "a rate between 0 and 1"),
        Case("a share of the target's own above 1", lambda: RefineSettings(own=2.0), "from 0 to 1"),
    ),
)

TABLES = (FILES, MADE)
