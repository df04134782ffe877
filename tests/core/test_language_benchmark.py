"""The benchmark of a language model: what is recorded, moved and counted is what is meant."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from benchmarks.language import upper
from benchmarks.language.checkpoint import halves_apart
from benchmarks.language.rows import network_of
from benchmarks.language.text import Example, batch_of
from benchmarks.language.upper import IGNORED
from prolora import TransferSettings, load_checkpoint, read_adapter_file
from prolora.recording.calibrated import PENALTY, transfer_recorded
from prolora.recording.network import Prompt
from prolora.recording.record import Clean, RecordingSettings, record
from prolora.recording.recording import Recording
from prolora.recording.refine import RefineSettings, refine
from prolora.transfer.resolve import resolve

from .dense_reference import dense_fit
from .language_models import adapter, llama, tuned
from .small_models import delta, matrix
from .strategies import relative_error

COUNT, LENGTH = 12, 16


def test_the_rows_of_q_and_k_come_back_as_they_were():
    """As llama.cpp's conversion lays them out: the halves of each head take turns."""
    weight, heads = torch.randn(24, 10), 3
    theirs = weight.view(heads, 2, 4, 10).transpose(1, 2).reshape(24, 10)
    assert not torch.equal(theirs, weight)
    assert torch.equal(halves_apart(theirs, heads), weight)


def test_answers_alone_are_labels():
    long, short = Example([5, 6, 7], [8, 2], "a"), Example([5], [9, 2], "b")
    tokens, labels = batch_of([long, short], pad=0)
    assert tokens.tolist() == [[5, 6, 7, 8, 2], [5, 9, 2, 0, 0]]
    assert labels.tolist() == [[IGNORED] * 3 + [8, 2], [IGNORED, 9, 2, IGNORED, IGNORED]]


def test_the_upper_blocks_go_on_where_the_lower_ones_end(monkeypatch):
    """The loss is the one that transformers gives for the whole model, labels shifted and all."""
    monkeypatch.setattr(upper, "FIRST", 2)
    model = llama()
    tokens = torch.randint(64, (3, LENGTH), generator=torch.Generator().manual_seed(5))
    labels = tokens.clone()
    labels[:, : LENGTH // 2] = IGNORED
    with torch.no_grad():
        want = float(model(tokens, labels=labels).loss)
        found = float(upper.loss_of(model, upper.below(model, tokens), labels))
        unread = float(upper.loss_of(model, model.model.embed_tokens(tokens), labels))
        assert float(model(tokens, labels=labels).loss) == want
    assert abs(unread - want) > 1e-2
    assert abs(found - want) < 1e-3


@pytest.fixture
def models(tmp_path) -> tuple[LlamaForCausalLM, LlamaForCausalLM, Path]:
    """A source, a target, and the folder of both and of a LoRA, `lora`."""
    source = llama()
    target = tuned(source)
    source.save_pretrained(tmp_path / "source")
    target.save_pretrained(tmp_path / "target")
    adapter(source, tmp_path / "lora")
    return source, target, tmp_path


def embedded(source: LlamaForCausalLM) -> torch.Tensor:
    tokens = torch.randint(64, (COUNT, LENGTH), generator=torch.Generator().manual_seed(4))
    return source.model.embed_tokens(tokens).detach()


def recorded(source: LlamaForCausalLM, folder: Path) -> Recording:
    clean = Clean(embedded(source), (Prompt({}),), torch.zeros(COUNT, dtype=torch.long))
    lora = resolve(read_adapter_file(folder / "lora"), load_checkpoint(folder / "source"))
    wrapped = PeftModel.from_pretrained(copy.deepcopy(source), folder / "lora").merge_and_unload()
    settings = RecordingSettings(levels=1, positions=COUNT * LENGTH)
    both = network_of(source), network_of(wrapped)
    return record(lora, *both, clean, [1.0] * COUNT, "tokens", settings)


def inputs_of(model: LlamaForCausalLM, name: str, latents: torch.Tensor) -> np.ndarray:
    """What a layer is given, all tokens by its width."""
    found = []
    layer = model.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    with torch.no_grad():
        model.model(inputs_embeds=latents)
    handle.remove()
    return matrix(found[0].flatten(0, 1))


def test_a_language_model_is_listened_to(models):
    """The factors are those of the ridge regression on both models' own inputs, token by token."""
    source, target, folder = models
    core = load_checkpoint(folder / "target")
    lora = resolve(read_adapter_file(folder / "lora"), load_checkpoint(folder / "source"))
    settings = TransferSettings(threshold=0.0)
    heard = recorded(source, folder)
    moved = transfer_recorded(lora, core, heard, network_of(target), settings).adapters
    latents = embedded(source)
    for before, after in zip(lora.file.adapters, moved, strict=True):
        name = before.name.removeprefix("base_model.model.")
        down = matrix(before.down)
        X, X_source = (inputs_of(model, name, latents) for model in (target, source))
        fitted = dense_fit(X, X_source @ down.T, down, PENALTY)
        want = delta(before) @ np.linalg.pinv(down) @ fitted
        if "layers.0.self_attn." not in name:  # which reads the same in both
            assert relative_error(delta(before), want) > 0.02
        assert relative_error(delta(after), want) < 0.003


def test_a_language_model_is_refined(models):
    """Towards what the source with the LoRA answers: from a weak one on the source itself."""
    source, _, folder = models
    core = load_checkpoint(folder / "source")
    adapters = read_adapter_file(folder / "lora").adapters
    weak = tuple(replace(module, up=0.3 * module.up) for module in adapters)
    settings = RefineSettings(steps=25, batch=4, own=0.0)
    found = refine(weak, core, network_of(source), recorded(source, folder), settings)
    (_, before), *_, (_, after) = found.held_out
    assert after < 0.5 * before
