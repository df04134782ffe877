"""What a LoRA's file says of itself: shown, compared with the models, asked by auto, and kept."""

import hashlib
import json

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from comfy_harness.hosts import PACK_ROOT

from .checks import fails

pytestmark = pytest.mark.host

MODELS = PACK_ROOT / "demo" / "models"
A, B = "emoji_a.safetensors", "emoji_b.safetensors"


def hashes(name: str) -> dict[str, str]:
    """As kohya's trainer writes them."""
    content = (MODELS / name).read_bytes()
    return {
        "ss_sd_model_hash": hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
        "ss_new_sd_model_hash": hashlib.sha256(content).hexdigest(),
    }


def header(base: str = A, name: str | None = None) -> dict[str, str]:
    return {
        "ss_sd_model_name": base if name is None else name,
        **hashes(base),
        "ss_base_model_version": "sd3",
        "ss_network_dim": "8",
        "ss_tag_frequency": json.dumps({"10_ink": {"blue ink": 10}}),
        "sshs_model_hash": "0" * 64,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v3-medium/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "Blue ink\n\u202e<b>",
        "modelspec.hash_sha256": "0x" + "0" * 64,
        "modelspec.license": "MIT",
        "modelspec.thumbnail": "data:image/jpeg;base64," + "A" * 5000,
    }


@pytest.fixture
def lora(comfy, request):
    """Writes the demo's LoRA under a header; returns its name in the list."""

    def write(said: dict[str, str] | None) -> str:
        name = f"{request.node.name.partition('[')[0]}_{write.count}.safetensors"
        write.count += 1
        style = load_file(MODELS / "emoji_style_lora.safetensors")
        save_file(style, comfy.folder / "models" / "loras" / name, said)
        return name

    write.count = 0
    return write


def text_of(client, graph, *nodes) -> list[str]:
    done = client.queue(graph.prompt)
    return [done.of(node[0])["text"][0] for node in nodes]


def moved(graph, name: str, source: str = A, target: str = B):
    link = graph.source(name, source_checkpoint=source)
    made = graph.transfer(link, graph.checkpoint(target), mode="copy", threshold=0.0)
    graph.save(made, f"loras/{name.partition('.')[0]}")
    return link, made


def saved_header(comfy, name: str) -> tuple[dict[str, str], bytes]:
    """The header and the data of the file."""
    stem = name.partition(".")[0]
    path = max((comfy.folder / "output" / "loras").glob(f"{stem}_*.safetensors"))
    with safe_open(path, "pt") as file:
        content = path.read_bytes()
        return file.metadata(), content[8 + int.from_bytes(content[:8], "little") :]


def test_what_the_file_says_is_shown_and_kept(client, comfy, graph, lora):
    name = lora(header())
    info, summary = text_of(client, graph, *moved(graph, name))
    assert (
        f"says that it was trained on {A} (hash {hashes(A)['ss_new_sd_model_hash'][:10]})" in info
    )
    assert "base model version sd3" in info
    assert "title: Blue ink  <b>" in info
    assert "most frequent tags: blue ink" in info
    assert "licence: MIT" in info
    assert "AAAA" not in info + summary
    assert "WARNING" not in info + summary

    now, data = saved_header(comfy, name)
    same = ("title", "license", "thumbnail", "architecture", "implementation", "sai_model_spec")
    for key in ("ss_tag_frequency", "ss_base_model_version", *(f"modelspec.{k}" for k in same)):
        assert now[key] == header()[key]
    assert now.items() >= {"ss_sd_model_name": B, **hashes(B)}.items()
    assert now["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert now["modelspec.hash_sha256"] == f"0x{now['sshs_model_hash']}"
    for key in ("ss_sd_model_name", *hashes(A), "sshs_model_hash", "modelspec.hash_sha256"):
        assert now[f"prolora_source_{key}"] == header()[key]
    assert now["prolora_source"] == f"{A} (SD3)"


def test_source_and_target_swapped(client, graph, lora):
    link, made = moved(graph, lora(header(B)), A, B)
    info, summary = text_of(client, graph, link, made)
    digest = hashes(B)["ss_new_sd_model_hash"][:10]
    assert f"WARNING: the LoRA says that it was trained on {B} (hash {digest})" in info
    assert f"the source is {A}" in info
    for text in ("and the source is", f"the target itself ({B}): was source and target swapped?"):
        assert text in summary


def test_a_name_that_differs_while_the_hash_agrees(client, graph, lora):
    info, summary = text_of(client, graph, *moved(graph, lora(header(A, "renamed.safetensors"))))
    assert "trained on renamed.safetensors" in info
    assert "WARNING" not in info + summary


def test_a_hash_that_differs_while_the_name_agrees(client, graph, lora):
    info, summary = text_of(client, graph, *moved(graph, lora(header(B, A))))
    assert "WARNING" not in info + summary
    for text in (info, summary):
        assert f"{A} has another hash" in text


def test_a_connected_source_model_is_compared_by_its_file(client, graph, lora):
    """The MODEL is followed to its loader."""
    link = graph.source(lora(header(B)), source_model=graph.checkpoint(A))
    graph.save(graph.transfer(link, graph.checkpoint(B), mode="copy"), "loras/connected")
    (info,) = text_of(client, graph, link)
    assert f"the source is {A}" in info


@pytest.mark.parametrize("base", [A, B])
def test_auto_takes_the_file_that_the_hash_names(client, graph, lora, base):
    name = lora(header(base, "renamed.safetensors"))
    info, summary = text_of(client, graph, *moved(graph, name, "auto", A))
    assert f"source {base} (SD3)" in info
    assert f"from {base}" in summary
    assert "guess" not in info + summary


def test_auto_by_the_name_alone_is_a_guess(client, graph, lora):
    name = lora({"ss_sd_model_name": "some/folder/EMOJI_A_fp16.ckpt"})
    info, summary = text_of(client, graph, *moved(graph, name, "auto"))
    for text in (info, summary):
        assert f"auto took {A} as the source, by its name alone: a guess" in text


@pytest.mark.parametrize(
    ("said", "fragments"),
    [
        (None, ("does not say which checkpoint", "Choose the file")),
        ({"ss_sd_model_name": "gone.ckpt"}, ("trained on gone.ckpt", "no checkpoint", "by hand")),
        (
            {"ss_sd_model_name": "x\n\u202e" * 500},
            ("trained on x  x", "Put it there"),
        ),
    ],
)
def test_auto_without_a_file(client, graph, lora, said, fragments):
    link = graph.source(lora(said), source_checkpoint="auto")
    graph.save(graph.transfer(link, graph.checkpoint(B)), "loras/none")
    fails(client, graph, link, *fragments)


def test_auto_is_the_choice_of_a_new_graph(object_info):
    choices = object_info["ProLoRALoadSource"]["input"]["required"]["source_checkpoint"][0]
    assert choices[0] == "auto"
    assert {A, B} < set(choices)
    of_similarity = object_info["ProLoRASimilarity"]["input"]["required"]["source_checkpoint"][0]
    assert "auto" not in of_similarity


def test_apply_hands_the_header_on_as_the_core_does(client, graph, lora):
    name = lora(header())
    core = graph.node("ProbeHeader", model=graph.core_lora(graph.checkpoint(A), name))
    made = graph.transfer(graph.source(name), graph.checkpoint(A), mode="copy")
    ours = graph.node("ProbeHeader", model=graph.apply(graph.checkpoint(A), made))
    of_core, of_ours = (json.loads(text) for text in text_of(client, graph, core, ours))
    assert (of_core is None) == (of_ours is None)  # only 0.33.0 keeps one
    if of_core is not None:
        assert of_core == header()
        assert of_ours["modelspec.title"] == of_core["modelspec.title"]
        assert of_ours["prolora_target"] == f"{A} (SD3)"


def test_a_refined_lora_keeps_what_the_file_says(client, comfy, graph, lora):
    name = lora(header())
    link = graph.source(name)
    recording = graph.record(link, graph.checkpoint(A))
    target = graph.checkpoint(B)
    made = graph.transfer(link, target, mode="copy", threshold=0.0)
    graph.save(graph.refine(target, made, recording), f"loras/{name.partition('.')[0]}")
    client.queue(graph.prompt)
    now, data = saved_header(comfy, name)
    assert now["modelspec.title"] == header()["modelspec.title"]
    assert now["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert now.items() >= hashes(B).items()
    assert "prolora_refined_steps" in now
