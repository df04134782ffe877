"""A recording in a real graph: made, saved, loaded, transferred by, refined with, and refused."""

import io
import json
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from comfy_harness.client import PromptInterrupted

from .checks import fails, relative, same, saved_lora
from .prompts import PromptBuilder, out

pytestmark = pytest.mark.host

A, B, PRUNED = "emoji_a.safetensors", "emoji_b.safetensors", "emoji_a_pruned.safetensors"
LORA = "emoji_style_lora.safetensors"
FROM_INPUT = "(the connected source_model)"


def recorded(graph: PromptBuilder, **inputs) -> list:
    return graph.record(graph.source(), graph.checkpoint(A), **inputs)


def save_recording(graph: PromptBuilder, recording: list, name: str) -> list:
    prefix = f"recordings/{name}"
    return graph.node("ProLoRASaveRecording", recording=recording, filename_prefix=prefix)


def load_recording(graph: PromptBuilder, name: str) -> list:
    path = f"output/recordings/{name}_00001_.recording.safetensors"
    return graph.node("ProLoRALoadRecording", recording_name=path)


def texts(client, graph: PromptBuilder, *nodes: list) -> list[str]:
    client.free()  # a node that is cached says nothing
    done = client.queue(graph.prompt)
    return [done.of(node[0])["text"][0] for node in nodes]


@pytest.fixture(scope="module")
def saved(client, comfy):
    """A recording in the output folder, and what the node said of it."""
    graph = PromptBuilder()
    recording = recorded(graph, samples=12)
    save_recording(graph, recording, "style")
    (info,) = texts(client, graph, recording)
    return info


def test_what_was_recorded(client, comfy, saved):
    assert "12 samples of 3 prompts, 3 noise levels each: 36 noised latents of 8 x 8 (SD3)" in saved
    assert f"recording of {LORA}, from {A} (SD3)" in saved
    assert "21 of 21 modules heard" in saved
    assert f"model {A}" in saved
    assert "sampled with the LoRA" in saved
    assert "MB" in saved


def test_a_file_holds_what_the_node_said(client, saved):
    graph = PromptBuilder()
    loaded = load_recording(graph, "style")
    graph.node("ProbeText", text=out(loaded, 1))
    assert texts(client, graph, loaded) == [saved]


def test_from_the_recording_to_a_file_for_any_loader(client, comfy, latents, saved):
    """Loaded, transferred, refined and saved; the host's own loader makes the same pictures."""
    graph = PromptBuilder()
    recording = load_recording(graph, "style")
    model = graph.checkpoint(B)
    moved = graph.transfer(graph.source(), model, mode="auto", recording=recording)
    refined = graph.refine(model, moved, recording)
    shown = graph.node("PreviewImage", images=out(refined, 2))
    graph.save(refined, "loras/refined", "fp32")
    graph.latents(graph.apply(model, refined), "refined")
    graph.latents(graph.apply(model, moved), "moved")
    graph.latents(model, "not_refined")
    client.free()
    done = client.queue(graph.prompt)
    assert "calibrated by " in done.of(moved[0])["text"][0]
    assert "21 of 21 modules refined, 3 steps" in done.of(refined[0])["text"][0]
    (file,) = done.of(shown[0])["images"]
    picture = np.asarray(Image.open(io.BytesIO(client.image(file))).convert("RGB"))
    assert picture.shape == (440, 760, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 4

    path = max((comfy.folder / "output" / "loras").glob("refined_*.safetensors"))
    metadata = header(path)
    assert metadata["prolora_mode"] == "calibrated"
    assert int(metadata["prolora_refined_steps"]) > 0
    assert len(metadata["prolora_lora_digest"]) == 64
    shutil.copy(path, comfy.folder / "models" / "loras" / "refined_from_disk.safetensors")
    again = PromptBuilder()
    loaded = again.core_lora(again.checkpoint(B), "refined_from_disk.safetensors")
    again.latents(loaded, "refined_loaded")
    client.queue(again.prompt)
    assert relative(latents("not_refined"), latents("refined")) > 0.1
    assert relative(latents("moved"), latents("refined")) > 1e-3
    assert relative(latents("refined_loaded"), latents("refined")) < 1e-4


def test_without_the_checkpoint(client, latents, saved):
    """The recording is the source: the checkpoint is not asked for."""
    graph = PromptBuilder()
    recording = load_recording(graph, "style")
    source = graph.source(source_checkpoint=FROM_INPUT, recording=recording)
    model = graph.checkpoint(B)
    moved = graph.transfer(source, model, mode="auto", recording=recording)
    graph.latents(graph.apply(model, moved), "by_the_recording")
    graph.latents(model, "bare")
    info, summary = texts(client, graph, source, moved)
    assert info.startswith(f"21 of 21 modules match the source {A} (SD3)")
    assert "21 of 21 modules transferred" in summary
    assert "calibrated by " in summary
    assert relative(latents("by_the_recording"), latents("bare")) > 0.1


def test_a_mode_that_does_not_listen(client, saved):
    graph = PromptBuilder()
    recording = load_recording(graph, "style")
    moved = graph.transfer(graph.source(), graph.checkpoint(B), recording=recording)
    graph.save(moved, "loras/by_weights")
    (summary,) = texts(client, graph, moved)
    assert summary.count("recording was not used") == 1
    assert "The recording was not used: mode full was chosen." in summary
    assert "read-outs" not in summary


def test_the_model_counts_without_its_loras(client, comfy, latents, saved):
    graph = PromptBuilder()
    model = graph.core_lora(graph.checkpoint(A), LORA)
    save_recording(graph, graph.record(graph.source(), model, samples=12), "over_a_lora")
    client.queue(graph.prompt)
    folder = comfy.folder / "output" / "recordings"
    one, other = (
        load_file(folder / f"{name}_00001_.recording.safetensors")
        for name in ("style", "over_a_lora")
    )
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert torch.allclose(tensor.float(), other[key].float(), atol=1e-3), key


def test_the_answers_are_those_of_the_host_with_the_lora(client, comfy, saved):
    """The LoRA moves them, and 36 latents are noised to levels from picture to noise."""
    path = comfy.folder / "output" / "recordings" / "style_00001_.recording.safetensors"
    found = load_file(path)
    without, with_lora = (found[f"derivatives{n}"].float() for n in ("_without", ""))
    assert relative(with_lora.numpy(), without.numpy()) > 0.1
    assert found["sigmas"].min() < 0.2
    assert found["sigmas"].max() > 0.9


def test_a_schedule_of_few_steps(client, comfy):
    graph = PromptBuilder()
    sigmas = {"scheduler": "simple", "steps": 2, "denoise": 1.0}
    schedule = graph.node("BasicScheduler", model=graph.checkpoint(B), **sigmas)
    recording = recorded(graph, samples=4, levels=2, sigmas=schedule)
    save_recording(graph, recording, "few_steps")
    (info,) = texts(client, graph, recording)
    assert "schedule 1 " in info
    path = comfy.folder / "output" / "recordings" / "few_steps_00001_.recording.safetensors"
    found = load_file(path)
    assert len(found["sigmas"].unique()) == 2
    assert found["next_sigmas"].min() == 0


@pytest.fixture
def undisturbed(client, latents):
    """What the models draw is the same before and after, and no file is left behind."""

    def draw(prefix: str, names: str) -> None:
        graph = PromptBuilder()
        for model in (A, B):
            graph.latents(graph.checkpoint(model), f"{prefix}_{model[:7]}", names=names)
        client.queue(graph.prompt)

    draw("undisturbed", "cat, dog, apple")
    yield
    draw("disturbed", "cat,dog,apple")
    for model in (A, B):
        before, after = (latents(f"{when}_{model[:7]}") for when in ("undisturbed", "disturbed"))
        assert (before == after).all()


def cancelled(client, graph: PromptBuilder, node: list, maximum: int) -> None:
    """Cancels when the node is in the middle of a stage of so many parts."""
    seen = []

    def cancel(progress) -> None:
        if progress.node_id == node[0] and progress.maximum == maximum and progress.value >= 1:
            if not seen:
                threading.Thread(target=client.interrupt).start()
            seen.append(progress.value)

    with pytest.raises(PromptInterrupted):
        client.queue(graph.prompt, cancel)
    assert 1 <= max(seen) < maximum


@pytest.mark.parametrize("stage", ["sampling", "listening"])
def test_cancel_while_recording(client, comfy, undisturbed, stage):
    graph = PromptBuilder()
    recording = recorded(graph, samples=64, levels=5)
    save_recording(graph, recording, "cancelled")
    cancelled(client, graph, recording, {"sampling": 64 * 4, "listening": 64 * 5}[stage])
    assert not list((comfy.folder / "output").rglob("cancelled*"))
    assert not list((comfy.folder / "output").rglob("*.partial"))


def test_cancel_while_refining(client, undisturbed, saved):
    graph = PromptBuilder()
    recording = load_recording(graph, "style")
    model = graph.checkpoint(B)
    moved = graph.transfer(graph.source(), model, mode="auto", recording=recording)
    refined = graph.refine(model, moved, recording, steps=200)
    graph.save(refined, "loras/cancelled")
    cancelled(client, graph, refined, 200)


def test_a_recording_disturbs_nothing(client, undisturbed, saved):
    graph = PromptBuilder()
    recording = recorded(graph, seed=4)
    model = graph.checkpoint(B)
    moved = graph.transfer(graph.source(), model, mode="auto", recording=recording)
    graph.save(graph.refine(model, moved, recording), "loras/undisturbed")
    client.queue(graph.prompt)


def test_nothing_gained(client, comfy, saved):
    """After no step at all the LoRA is as it came."""
    graph = PromptBuilder()
    recording = load_recording(graph, "style")
    model = graph.checkpoint(B)
    moved = graph.transfer(graph.source(), model, mode="auto", recording=recording)
    refined = graph.refine(model, moved, recording, steps=0)
    graph.save(moved, "loras/as_moved")
    graph.save(refined, "loras/as_refined")
    (info,) = texts(client, graph, refined)
    assert info.startswith("NOTHING WAS GAINED, so the LoRA is as it came")
    folder = comfy.folder / "output" / "loras"
    moved, refined = (max(folder.glob(f"{name}_*")) for name in ("as_moved", "as_refined"))
    assert same(saved_lora(comfy, "as_moved"), saved_lora(comfy, "as_refined"))
    assert header(moved) == header(refined)


def header(path) -> dict[str, str]:
    with safe_open(path, "pt") as opened:
        return opened.metadata()


# What is refused


def test_a_model_that_is_not_the_source(client):
    graph = PromptBuilder()
    recording = graph.record(graph.source(), graph.checkpoint(B))
    save_recording(graph, recording, "refused")
    fails(client, graph, recording, B, f"is not the source {A}", "Connect the MODEL")


def test_a_recording_of_a_recording(client, saved):
    graph = PromptBuilder()
    loaded = load_recording(graph, "style")
    source = graph.source(source_checkpoint=FROM_INPUT, recording=loaded)
    recording = graph.record(source, graph.checkpoint(A))
    save_recording(graph, recording, "refused")
    fails(client, graph, recording, "is a recording", "cannot be recorded from")


def test_guidance_without_a_negative(client):
    graph = PromptBuilder()
    recording = recorded(graph, cfg=7.0)
    save_recording(graph, recording, "refused")
    fails(client, graph, recording, "A cfg of 7 needs a negative prompt")


def test_text_of_another_model(client):
    graph = PromptBuilder()
    wrong = graph.node("ProbeConditioning", context=32, pooled=64)
    recording = recorded(graph, positive=wrong)
    save_recording(graph, recording, "refused")
    fails(client, graph, recording, "SD3 cannot take this conditioning")


def test_a_prediction_that_is_no_number(client, comfy):
    name = "broken_bias.safetensors"
    folder = comfy.folder / "models" / "checkpoints"
    key = "model.diffusion_model.x_embedder.proj.bias"
    tensors = load_file(folder / A)
    save_file(tensors | {key: torch.full_like(tensors[key], torch.nan)}, folder / name)
    graph = PromptBuilder()
    recording = graph.record(graph.source(source_checkpoint=name), graph.checkpoint(name))
    save_recording(graph, recording, "refused")
    fails(client, graph, recording, "NaN or infinite values at sigma")


@pytest.mark.parametrize("place", ["record", "transfer", "refine"])
def test_no_memory(client, saved, place):
    graph = PromptBuilder()
    full = "CUDA out of memory. Tried to allocate 7.00 GiB"
    node = failing(graph, place, "RuntimeError", full)
    fails(client, graph, node, "memory does not suffice", "7.00 GiB", "smaller width")


@pytest.mark.parametrize("place", ["record", "transfer", "refine"])
@pytest.mark.parametrize(
    ("error", "text", "is_of_shapes"),
    [
        ("RuntimeError", "Given groups=1, expected input[1, 4, 8, 8] to have 16 channels", True),
        ("RuntimeError", "The size of tensor a (4) must match the size of tensor b (5)", True),
        ("RuntimeError", "CUDA error: device-side assert triggered", False),
        ("RuntimeError", "expected m1 and m2 to have the same dtype: float != Half", False),
        ("TypeError", "forward() got an unexpected keyword argument 'guidance'", False),
        ("AttributeError", "'NoneType' object has no attribute 'shape'", False),
    ],
)
def test_what_stops_a_model_is_said(client, saved, place, error, text, is_of_shapes):
    graph = PromptBuilder()
    node = failing(graph, place, error, text)
    told = "cannot take this conditioning" if is_of_shapes else "stops while it runs"
    fails(client, graph, node, f"SD3 {told}", f"{error}: {text}")


def failing(graph: PromptBuilder, place: str, error: str, text: str) -> list:
    """The node that runs a model which raises an error."""
    name = A if place == "record" else B
    model = graph.checkpoint(name)
    broken = graph.node("ProbeFailing", model=model, error=error, text=text)
    if place == "record":
        node = graph.record(graph.source(), broken)
        save_recording(graph, node, "refused")
        return node
    recording = load_recording(graph, "style")
    given = {"mode": "auto", "recording": recording} if place == "transfer" else {}
    node = graph.transfer(graph.source(), broken if place == "transfer" else model, **given)
    if place == "refine":
        node = graph.refine(broken, node, recording)
    graph.save(node, "loras/refused")
    return node


@pytest.fixture(scope="module")
def another_lora(comfy):
    """The style LoRA, a little stronger in one module."""
    name = "another_style.safetensors"
    folder = comfy.folder / "models" / "loras"
    tensors = load_file(folder / LORA)
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    save_file(tensors | {key: tensors[key] * 1.5}, folder / name)
    return name


@pytest.mark.parametrize("place", ["source", "transfer", "refine"])
def test_a_recording_of_another_lora(client, saved, another_lora, place):
    graph = PromptBuilder()
    recording, model = load_recording(graph, "style"), graph.checkpoint(B)
    of = {
        name: {"recording": recording} if place == name else {} for name in ("source", "transfer")
    }
    source = graph.source(another_lora, **of["source"])
    moved = graph.transfer(source, model, mode="auto", **of["transfer"])
    refined = graph.refine(model, moved, recording)
    graph.save(refined, "loras/refused")
    node = {"source": source, "transfer": moved, "refine": refined}[place]
    fails(client, graph, node, "is of another LoRA", LORA, another_lora)


def damaged(comfy, name: str, change) -> str:
    """A recording in the loras folder whose file was changed."""
    recordings = comfy.folder / "output" / "recordings"
    path = recordings / "style_00001_.recording.safetensors"
    metadata = header(path)
    tensors = load_file(path)
    change(tensors, metadata)
    file = f"{name}.recording.safetensors"
    save_file(tensors, comfy.folder / "models" / "loras" / file, metadata)
    return f"loras/{file}"


def of_another_format(tensors, metadata) -> None:
    head = json.loads(metadata["prolora_recording_head"])
    metadata["prolora_recording_head"] = json.dumps(head | {"latent_format": "Flux"})


def of_another_text(tensors, metadata) -> None:
    for key in [key for key in tensors if key.endswith(".cross_attn")]:
        tensors[key] = tensors[key][..., :32].contiguous()


def of_a_later_version(tensors, metadata) -> None:
    metadata["prolora_recording"] = "2"


def without_a_tensor(tensors, metadata) -> None:
    del tensors["sigmas"]


@pytest.mark.parametrize("place", ["transfer", "refine"])
@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (of_another_format, ["latents of Flux", "draws latents of SD3"]),
        (of_another_text, ["SD3 cannot take this conditioning"]),
    ],
)
def test_a_recording_that_does_not_fit_the_target(client, comfy, saved, change, fragments, place):
    name = damaged(comfy, f"{change.__name__}_{place}", change)
    graph = PromptBuilder()
    recording = graph.node("ProLoRALoadRecording", recording_name=name)
    model = graph.checkpoint(B)
    given = {"mode": "auto", "recording": recording} if place == "transfer" else {}
    moved = graph.transfer(graph.source(), model, **given)
    refined = graph.refine(model, moved, recording)
    graph.save(refined, "loras/refused")
    fails(client, graph, moved if place == "transfer" else refined, *fragments)


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (of_a_later_version, ["of version 2", "Update ProLoRA"]),
        (without_a_tensor, ["is not a whole recording", "record the LoRA again"]),
    ],
)
def test_a_recording_that_cannot_be_read(client, comfy, saved, change, fragments):
    graph = PromptBuilder()
    name = damaged(comfy, change.__name__, change)
    recording = graph.node("ProLoRALoadRecording", recording_name=name)
    graph.node("ProbeText", text=out(recording, 1))
    fails(client, graph, recording, *fragments)


def test_a_recording_that_was_cut(client, comfy, saved):
    whole = comfy.folder / "output" / "recordings" / "style_00001_.recording.safetensors"
    cut = comfy.folder / "output" / "recordings" / "cut_00001_.recording.safetensors"
    cut.write_bytes(whole.read_bytes()[:-1000])
    graph = PromptBuilder()
    recording = load_recording(graph, "cut")
    graph.node("ProbeText", text=out(recording, 1))
    fails(client, graph, recording, "cut_00001_.recording.safetensors", "ends early")


def test_a_recording_is_read_again_when_it_changed(client, comfy, saved):
    folder = comfy.folder / "output" / "recordings"
    path = folder / "changing_00001_.recording.safetensors"
    shutil.copy(folder / "style_00001_.recording.safetensors", path)

    def info() -> str:
        graph = PromptBuilder()
        loaded = load_recording(graph, "changing")
        graph.node("ProbeText", text=out(loaded, 1))
        return client.queue(graph.prompt).of(loaded[0])["text"][0]

    before = info()
    graph = PromptBuilder()
    save_recording(graph, recorded(graph, samples=2), "changed")
    client.queue(graph.prompt)
    shutil.copy(folder / "changed_00001_.recording.safetensors", path)
    assert "12 samples" in before
    assert "2 samples" in info()


def of_a_long_header(tensors, metadata) -> None:
    head = json.loads(metadata["prolora_recording_head"])
    lost = {f"module{i}\nforged line": f"reason {i} \x1b[31m{'x' * 5000}" for i in range(12)}
    head |= {"left_out": lost, "settings": head["settings"] | {"model": "a\nb\x1b[0m" * 900}}
    metadata["prolora_recording_head"] = json.dumps(head)


def test_what_a_header_says_is_cut(client, comfy, saved):
    name = damaged(comfy, "long_header", of_a_long_header)
    graph = PromptBuilder()
    recording = graph.node("ProLoRALoadRecording", recording_name=name)
    graph.node("ProbeText", text=out(recording, 1))
    (info,) = texts(client, graph, recording)
    lines = info.split("\n")
    assert sum("1 not heard, reason" in line for line in lines) == 5
    assert "and 7 more" in info
    assert not [line for line in lines if line.startswith("forged line")]
    assert all(c.isprintable() for line in lines for c in line)
    assert max(map(len, lines)) < 700


def test_a_lora_that_does_not_tell_its_source(client, saved):
    """Another pack's node hands a state dict on and no header."""
    graph = PromptBuilder()
    recording, model = load_recording(graph, "style"), graph.checkpoint(B)
    moved = graph.transfer(graph.source(), model, mode="auto", recording=recording)
    bare = graph.node("ProbeLoraModel", lora=moved)
    infos = [graph.refine(model, lora, recording, steps=1) for lora in (moved, bare)]
    for refined in infos:
        graph.node("ProbeText", text=out(refined, 1))
    known, unknown = texts(client, graph, *infos)
    assert "could not be checked" not in known
    assert "it could not be checked whether the recording is of this LoRA" in unknown


def test_an_accelerator_would_bring_the_sources_pictures_along(client, comfy, saved):
    folder = comfy.folder / "models" / "loras"
    shutil.copy(folder / LORA, folder / "emoji_lcm.safetensors")
    graph = PromptBuilder()
    recording, model = load_recording(graph, "style"), graph.checkpoint(B)
    moved = [graph.transfer(graph.source(name), model) for name in (LORA, "emoji_lcm.safetensors")]
    choices = [(moved[0], 0.3), (moved[1], 0.3), (moved[1], 1.0)]
    infos = [graph.refine(model, lora, recording, steps=0, own=own) for lora, own in choices]
    for refined in infos:
        graph.node("ProbeText", text=out(refined, 1))
    style, brings, apart = texts(client, graph, *infos)
    assert "an accelerator (LCM) is best refined with own at 1" in brings
    assert "accelerator" not in style + apart


@pytest.mark.parametrize("seed", [0, 2**63 - 1, 2**64 - 1])
def test_each_use_of_the_seed_has_its_own(client, graph, seed):
    probe = graph.node("ProbeSeeds", seed=str(seed))
    figures = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    assert figures["seeds"] == [str((seed + later) % 2**63) for later in range(3)]
    assert len({str(drawn) for drawn in figures["drawn"]}) == 3


def test_the_seed_that_was_chosen_is_noted(saved):
    assert "seed 3" in saved


def test_a_recording_that_would_be_too_large(client):
    graph = PromptBuilder()
    empty = graph.node("EmptySD3LatentImage", width=1024, height=1024, batch_size=1)
    recording = recorded(graph, samples=4096, levels=64, latent_image=empty)
    save_recording(graph, recording, "refused")
    fails(client, graph, recording, "would take about 384", "2 GB are the most", "Lower samples")


def test_the_size_is_told_before(client, comfy, saved):
    """About what the file has then."""
    graph = PromptBuilder()
    recording = recorded(graph, samples=12)
    probe = graph.node("ProbeExpectedSize", source_lora=graph.source(), recording=recording)
    expected, size = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    assert expected == pytest.approx(size, rel=0.1)


def test_loras_and_recordings_are_listed_apart(client, comfy, saved):
    damaged(comfy, "beside", lambda *_: None)
    graph = PromptBuilder()
    loaded = load_recording(graph, "style")
    for prefix in ("recordings/deep/er/found", "elsewhere/unlisted"):
        graph.node("ProLoRASaveRecording", recording=loaded, filename_prefix=prefix)
    client.queue(graph.prompt)
    info = client.object_info()
    names = info["ProLoRALoadSource"]["input"]["required"]["lora_name"][0]
    assert LORA in names
    assert not [name for name in names if name.endswith(".recording.safetensors")]
    names = info["ProLoRALoadRecording"]["input"]["required"]["recording_name"][0]
    assert "loras/beside.recording.safetensors" in names
    assert "output/recordings/style_00001_.recording.safetensors" in names
    assert "output/recordings/deep/er/found_00001_.recording.safetensors" in names
    assert not [name for name in names if "unlisted" in name]
    assert all(name.endswith(".recording.safetensors") for name in names)


@pytest.mark.parametrize("prefix", ["../escaped", "/tmp/escaped"])
def test_a_prefix_that_climbs_out(client, comfy, saved, prefix):
    graph = PromptBuilder()
    loaded = load_recording(graph, "style")
    node = graph.node("ProLoRASaveRecording", recording=loaded, filename_prefix=prefix)
    fails(client, graph, node, "leads out of ComfyUI's output folder", prefix)
    assert not list(comfy.folder.parent.rglob("escaped*"))


def emoji(graph: PromptBuilder, name: str) -> list:
    return graph.node("EmojiLoader", ckpt_name=name)


def test_a_pruned_target(client, latents, saved):
    """Its blocks are paired by the weights of both models, then it is listened to."""
    graph = PromptBuilder()
    recording = load_recording(graph, "style")
    model = emoji(graph, PRUNED)
    moved = graph.transfer(graph.source(), model, mode="auto", recording=recording)
    refined = graph.refine(model, moved, recording)
    graph.latents(graph.apply(model, refined), "pruned_refined")
    graph.latents(model, "pruned_bare")
    summary, info = texts(client, graph, moved, refined)
    assert "calibrated by " in summary
    assert "modules refined, 3 steps" in info
    assert relative(latents("pruned_refined"), latents("pruned_bare")) > 0.1


def test_a_pruned_target_without_the_checkpoint(client, saved):
    graph = PromptBuilder()
    recording = load_recording(graph, "style")
    source = graph.source(source_checkpoint=FROM_INPUT, recording=recording)
    moved = graph.transfer(source, emoji(graph, PRUNED), mode="auto", recording=recording)
    graph.save(moved, "loras/refused")
    fails(client, graph, moved, "names and shapes only", "Choose the checkpoint")
