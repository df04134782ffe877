"""A recording: what it holds, against the model that was recorded; as a file; what is refused."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from prolora.adapters import FullDifference
from prolora.errors import ProLoRAError
from prolora.files.safetensors import read_safetensors, write_safetensors
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights
from prolora.recording.file import read_recording, write_recording
from prolora.recording.network import TextNetwork
from prolora.recording.record import HEARD_RANK, Clean, RecordingSettings, modules_of, record
from prolora.transfer.resolve import resolve

from .running_models import clean, lora_file, model_of, network_of, recorded, source, with_lora
from .small_models import file_of, random_lora, random_weight
from .small_models import model_of as plain_model

FILE = lora_file()
RECORDING = recorded(FILE)


def inputs_of(name: str, example: int) -> torch.Tensor:
    """What a module's layer is given for a latent, p x n, by a hook of this test."""
    module, found = source(), []
    layer = network_of(module).layers[model_of(module).key_map[name].key]
    handle = layer.register_forward_hook(lambda _, given, output: found.append(given[0]))
    latents, sigma = RECORDING.latents[example][None].float(), RECORDING.sigmas[example][None]
    network_of(module).denoise(latents, sigma, RECORDING.prompts_at(torch.tensor([example])))
    handle.remove()
    (given,) = found
    if isinstance(layer, nn.Conv2d):
        columns = nn.functional.unfold(given, layer.kernel_size, 1, layer.padding, layer.stride)
        return columns[0].T
    return given.reshape(-1, given.shape[-1])


@pytest.mark.parametrize("name", [adapter.name for adapter in FILE.adapters])
def test_read_outs_are_what_the_module_reads(name):
    adapter = next(a for a in FILE.adapters if a.name == name)
    down = adapter.update(torch.zeros(0)).down
    readout = RECORDING.readouts[name]
    assert readout.down is None
    each = len(readout.values) // len(RECORDING)
    positions = inputs_of(name, 0).shape[0]
    assert each == min(5, positions)  # 90 read-outs of 18 latents, where there are as many
    for example in (0, 7, 17):
        rows = inputs_of(name, example)[readout.positions[readout.examples == example].long()]
        values = readout.values[readout.examples == example]
        torch.testing.assert_close(values, rows @ down.T, rtol=1e-4, atol=1e-5)
    drawn = readout.positions[readout.examples == 0]
    assert len(drawn.unique()) == len(drawn)


def test_answers_are_those_of_the_two_networks():
    latents, sigmas = RECORDING.latents.float(), RECORDING.sigmas
    prompts = RECORDING.prompts_at(torch.arange(len(RECORDING)))
    tokens = torch.cat([prompt.tensors["cross_attn"] for prompt in prompts])
    without = source()(latents, sigmas, tokens)
    network = with_lora(source(), FILE.adapters)
    denoised = network.denoise(latents, sigmas, prompts)
    styled = (latents - denoised) / sigmas[:, None, None, None]
    assert (styled - without).norm() > 0.02 * without.norm()
    close = {"rtol": 2e-3, "atol": 2e-3}  # float16
    torch.testing.assert_close(RECORDING.derivatives_without.float(), without, **close)
    torch.testing.assert_close(RECORDING.derivatives.float(), styled, **close)


def test_noised_latents_are_of_every_sample_and_level():
    assert len(RECORDING) == 18
    assert RECORDING.latents.dtype == torch.float16
    assert RECORDING.sigmas.sort().values.tolist() == pytest.approx(
        [(i + 0.5) / 18 for i in range(18)]
    )
    given = clean()
    samples = given.latents.repeat_interleave(3, dim=0)
    share = (RECORDING.latents.float() * samples).flatten(1).sum(1) / samples.flatten(
        1
    ).square().sum(1)
    torch.testing.assert_close(share, 1 - RECORDING.sigmas, rtol=0, atol=0.35)  # noise is random
    assert torch.equal(RECORDING.prompt_of, given.prompt_of.repeat_interleave(3))


def test_a_recording_for_a_schedule_tells_where_small_steps_lead():
    settings = RecordingSettings(levels=2, positions=90, schedule=(1.0, 0.6, 0.0), small_steps=3)
    found = recorded(FILE, settings)
    assert sorted(found.sigmas.tolist()) == [pytest.approx(0.6)] * 6 + [1.0] * 6
    assert found.next_sigmas is not None
    first = found.sigmas == 1
    assert found.next_sigmas[first].tolist() == [pytest.approx(0.6)] * 6
    assert found.next_sigmas[~first].tolist() == [0.0] * 6
    assert len(set(zip(found.prompt_of.tolist(), found.sigmas.tolist(), strict=True))) == 6
    for example in (0, 1, 2, 3):
        prompts = found.prompts_at(torch.tensor([example]))
        start = at = found.latents[example][None].float()
        levels = torch.linspace(found.sigmas[example], found.next_sigmas[example], 4)
        for sigma, following in pairwise(levels):
            velocity = source()(at, sigma[None], prompts[0].tensors["cross_attn"])
            at = at + (following - sigma) * velocity
        wanted = (at - start) / (levels[-1] - levels[0])
        got = found.derivatives_without[example][None].float()
        torch.testing.assert_close(got, wanted, rtol=2e-3, atol=2e-3)


def test_guidance_goes_away_from_the_negative_prompt():
    schedule = {"levels": 2, "positions": 90, "schedule": (1.0, 0.5, 0.0), "small_steps": 1}
    given = clean()
    negative = given.prompts[1]

    def answers(cfg: float, unwanted=negative) -> torch.Tensor:
        network = network_of(source())
        found = record(
            resolve(FILE, model_of(source())),
            network,
            network,
            replace(given, negative=unwanted),
            [],
            "Small",
            RecordingSettings(**schedule, cfg=cfg),
        )
        return found.derivatives.float()

    plain = answers(1.0)
    assert torch.equal(plain, answers(3.0, None))
    guided = answers(3.0)
    own = given.prompt_of.repeat_interleave(2) == 1  # guided away from their own prompt: nowhere
    torch.testing.assert_close(guided[own], plain[own], rtol=1e-3, atol=1e-3)
    assert (guided[~own] - plain[~own]).norm() > 0.1 * plain[~own].norm()


def test_modules_that_cannot_be_heard_are_named():
    network = network_of(source())
    layers = {key: layer for key, layer in network.layers.items() if "proj" not in key}
    idle = nn.Linear(16, 16)
    layers["blocks.0.text.weight"] = idle
    found = record(
        resolve(FILE, model_of(source())),
        replace(network, layers=layers),
        network,
        clean(),
        [0.5] * 18,
        "Small",
        RecordingSettings(levels=3),
    )
    assert found.left_out == {
        "proj": "its weight is no layer of its own that runs",
        "text": "its layer did not run",
    }
    assert {"proj", "text"}.isdisjoint(found.readouts)
    assert not idle._forward_pre_hooks


def test_hooks_are_gone_where_a_user_cancels():
    class Cancelled(Exception):
        pass

    def cancel(done: int, total: int, of: str) -> None:
        if done == 4:
            raise Cancelled

    module = source()
    with pytest.raises(Cancelled):
        record(
            resolve(FILE, model_of(module)),
            network_of(module),
            network_of(module),
            clean(),
            [0.5] * 18,
            "Small",
            RecordingSettings(levels=3),
            cancel,
        )
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in module.modules())


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(3, 4)


def test_text_encoder_modules_are_heard_on_the_prompts_texts():
    text, name = Text().requires_grad_(False), "text_encoders.clip_l.proj"
    given = {prompt.text: torch.randn(5, 3) for prompt in clean().prompts}
    key = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    lora = random_lora(key, (4, 3), 2)
    file = file_of(*FILE.adapters, lora)
    weights = {**source().state_dict(), f"{name}.weight": text.proj.weight}
    model = model_of(source())
    model = replace(
        model,
        weights=StateDictWeights(weights),
        key_map={**model.key_map, key: WeightRef(f"{name}.weight")},
    )
    network = TextNetwork({f"{name}.weight": text.proj}, lambda words: text.proj(given[words]))
    both = network_of(source())
    arguments = (resolve(file, model), both, both, clean(), [0.5] * 18, "Small")
    found = record(*arguments, RecordingSettings(levels=3, positions=9), text=network)
    readout = found.text_readouts[key]
    assert key not in found.readouts
    rows = torch.stack(list(given.values()))[readout.examples.long(), readout.positions.long()]
    torch.testing.assert_close(readout.values, rows @ lora.update(torch.zeros(0)).down.T)
    without = record(*arguments, RecordingSettings(levels=3))
    assert without.left_out == {key: "no text encoder was connected"}


def test_large_sigmas_are_kept_whole():
    """Of a v model, rounding of a derivative counts sigma times."""
    network = network_of(source())
    arguments = (resolve(FILE, model_of(source())), network, network, clean())
    for largest, dtype in ((14.6, torch.float16), (80.0, torch.float32)):
        found = record(*arguments, [largest] * 18, "Small", RecordingSettings(levels=3))
        assert found.derivatives.dtype == found.derivatives_without.dtype == dtype


def test_a_family_without_a_rank_is_heard_through_few_factors():
    weight = random_weight((96, 80))
    file = file_of(FullDifference("wide", weight))
    lora = resolve(file, plain_model("A", {"wide": weight}))
    (heard,), _, _ = modules_of(lora)
    assert heard.down.shape == (HEARD_RANK, 80)
    assert heard.keeps_down


def test_what_has_no_inputs_of_its_own_is_named():
    lora = resolve(FILE, model_of(source()))
    vector = replace(lora.adapters[0], shape=(16,))
    shadowed = replace(lora, adapters=(vector, *lora.adapters[1:]), shadowed={"proj": "shadowed"})
    heard, _, why = modules_of(shadowed)
    assert why == {"proj": "shadowed", vector.adapter.name: "its weight is a vector"}
    assert len(heard) == len(FILE.adapters) - 2


# --- as a file ----------------------------------------------------------------------------------


def test_a_file_gives_the_same_recording(tmp_path):
    path = tmp_path / "lora.recording.safetensors"
    for found in (RECORDING, recorded(FILE, RecordingSettings(2, 90, schedule=(1.0, 0.5, 0.0)))):
        write_recording(found, path)
        again = read_recording(path)
        for name in ("latents", "sigmas", "prompt_of", "sample_of", "noising", "derivatives"):
            assert torch.equal(getattr(found, name), getattr(again, name))
        assert (found.next_sigmas is None) == (again.next_sigmas is None)
        assert again.readouts.keys() == found.readouts.keys()
        for module, readout in found.readouts.items():
            assert torch.equal(readout.values, again.readouts[module].values)
            assert torch.equal(readout.positions, again.readouts[module].positions)
        assert again.prompts[1].values == {"width": 8}
        assert again.prompts[1].text == "prompt 1"
        assert torch.equal(
            again.prompts[2].tensors["cross_attn"], found.prompts[2].tensors["cross_attn"]
        )
        assert (again.lora, again.settings) == (found.lora, found.settings)
        assert again.source.key_map == found.source.key_map
        assert again.source.shape(WeightRef("conv_in.weight")) == (16, 4, 3, 3)
        assert path.stat().st_size < found.size + 20_000


def damaged(tmp_path, change) -> None:
    path = tmp_path / "lora.recording.safetensors"
    write_recording(RECORDING, path)
    tensors, metadata = read_safetensors(path)
    tensors, metadata = dict(tensors), dict(metadata)
    change(tensors, metadata)
    write_safetensors(tensors, path, metadata)
    read_recording(path)


def drop(key):
    return lambda tensors, metadata: tensors.pop(key)


def put(key, make):
    return lambda tensors, metadata: tensors.update({key: make(tensors[key].clone())})


def nan(tensor):
    tensor.flatten()[0] = torch.nan
    return tensor


DAMAGES = {
    "without latents": (drop("latents"), "not a whole recording"),
    "without positions": (drop("readouts.positions.proj"), "not a whole recording"),
    "fewer answers": (put("derivatives", lambda t: t[1:]), "not of one number"),
    "answers of another size": (put("derivatives", lambda t: t[..., 1:]), "number and shape"),
    "answers for all": (put("derivatives", lambda t: t[:, :1]), "number and shape"),
    "levels of another kind": (put("sigmas", lambda t: t[:, None]), "their levels"),
    "latents without sides": (put("latents", lambda t: t.flatten()), "its latents are none"),
    "a negative position": (put("readouts.positions.proj", lambda t: t - 99), "contradict"),
    "positions that are no numbers of places": (
        put("readouts.positions.proj", lambda t: t.float()),
        "contradict",
    ),
    "examples in another order": (put("readouts.examples.proj", lambda t: t.flip(0)), "contradict"),
    "counts of complex numbers": (
        put("readouts.counts.proj", lambda t: t.to(torch.complex64)),
        "contradict",
    ),
    "counts that are no numbers": (
        put("readouts.counts.proj", lambda t: t.float() * torch.nan),
        "contradict",
    ),
    "one latent": (put("latents", lambda t: t.flatten()[0]), "its latents are none"),
    "a single read-out": (put("readouts.values.proj", lambda t: t.flatten()[0]), "contradict"),
    "a complex prompt": (
        put("prompts.0.cross_attn", lambda t: t.to(torch.complex64)),
        "of a prompt holds",
    ),
    "prompts by halves": (put("prompt_of", lambda t: t.float()), "prompts that are not there"),
    "a prompt of two": (put("prompts.0.cross_attn", lambda t: t.repeat(2, 1, 1)), "of one prompt"),
    "noise of another kind": (put("noising", lambda t: t[:, :1]), "their levels"),
    "an answer that is no number": (put("derivatives", nan), "NaN"),
    "a read-out that is no number": (put("readouts.values.proj", nan), "NaN"),
    "an example that is not there": (put("readouts.examples.proj", lambda t: t + 99), "contradict"),
    "a prompt that is not there": (put("prompt_of", lambda t: t + 9), "prompts that are not there"),
    "a latent without noise": (put("sigmas", lambda t: t * 0), "without noise"),
    "no head": (lambda t, metadata: metadata.pop("prolora_recording_head"), "not a whole"),
    "a head that is no JSON": (
        lambda t, metadata: metadata.update(prolora_recording_head="{"),
        "not a whole",
    ),
    "a head of another kind": (
        lambda t, metadata: metadata.update(prolora_recording_head="[]"),
        "not a whole",
    ),
    "a head without end": (
        lambda t, metadata: metadata.update(prolora_recording_head="[" * 100_000),
        "not a whole",
    ),
    "a later version": (lambda t, metadata: metadata.update(prolora_recording="2"), "version 2"),
    "no recording": (lambda t, metadata: metadata.clear(), "is no recording"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(tmp_path, damage):
    change, match = DAMAGES[damage]
    with pytest.raises(ProLoRAError, match=match):
        damaged(tmp_path, change)


def test_a_strangers_texts_are_cut(tmp_path):
    path = tmp_path / "lora.recording.safetensors"
    loud = "\x1b[31mX\n" * 1000
    found = replace(
        RECORDING,
        latent_format=loud,
        settings={"lora": loud},
        left_out={loud: loud},
        source=replace(RECORDING.source, name=loud),
    )
    write_recording(found, path)
    again = read_recording(path)
    texts = [again.latent_format, again.source.name, *again.settings.values(), *again.left_out]
    for text in (*texts, *again.left_out.values()):
        assert len(text) < 250
        assert text.isprintable()


def test_a_file_that_was_cut_is_refused(tmp_path):
    path = tmp_path / "lora.recording.safetensors"
    write_recording(RECORDING, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ProLoRAError, match="ends early"):
        read_recording(path)


# --- what is refused ----------------------------------------------------------------------------


def test_nothing_sampled():
    none = Clean(torch.empty(0, 4, 8, 8), clean().prompts, torch.empty(0, dtype=torch.long))
    network = network_of(source())
    with pytest.raises(ProLoRAError, match="Nothing was sampled"):
        record(
            resolve(FILE, model_of(source())),
            network,
            network,
            none,
            [],
            "Small",
            RecordingSettings(),
        )


def test_a_prediction_that_is_no_number_tells_its_sigma():
    network = network_of(source())

    def broken(latents, sigmas, prompts):
        found = network.denoise(latents, sigmas, prompts)
        return torch.where((sigmas > 0.6)[:, None, None, None], torch.nan, found)

    with pytest.raises(ProLoRAError, match=r"with its LoRA at sigma 0\.6\d* holds NaN"):
        record(
            resolve(FILE, model_of(source())),
            network,
            replace(network, denoise=broken),
            clean(),
            [0.3 + 0.02 * i for i in range(18)],
            "Small",
            RecordingSettings(levels=3),
        )


@pytest.mark.parametrize(
    ("choices", "match"),
    [
        ({"levels": 0}, "levels of 1 or more, not 0"),
        ({"positions": -1}, "positions of 1 or more, not -1"),
        ({"schedule": (0.5, 1.0, 0.0)}, "must fall"),
        ({"schedule": (1.0,)}, "two or more: 1"),
        ({"schedule": ()}, "two or more: none"),
    ],
)
def test_settings_out_of_range(choices, match):
    with pytest.raises(ProLoRAError, match=match):
        RecordingSettings(**choices)


def test_another_lora_or_other_latents():
    RECORDING.check_lora(FILE.digest, "it")
    with pytest.raises(ProLoRAError, match="of another LoRA"):
        RECORDING.check_lora(lora_file("proj").digest, "it")
    RECORDING.check_latents("Small", 4, "B")
    with pytest.raises(ProLoRAError, match=r"latents of Small \(4 channels\), and the target B"):
        RECORDING.check_latents("Large", 4, "B")
    with pytest.raises(ProLoRAError, match="16 channels"):
        RECORDING.check_latents("Small", 16, "B")
