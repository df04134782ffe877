"""The graphs that are shipped, and those of earlier versions, queued on a real host as they are."""

import json
from pathlib import Path
from shutil import copy

import pytest
from safetensors.torch import load_file, save_file

from comfy_harness.graph import to_prompt, with_widget
from comfy_harness.hosts import PACK_ROOT
from prolora.evaluation.pictures import folders_of, read_picture

from .small.architectures import ARCHITECTURES
from .small.files import skip_unless_it_loads, write_small_files
from .small_sd15 import RECORDING

pytestmark = pytest.mark.host

SHIPPED = PACK_ROOT / "workflows"
OF_WAN = SHIPPED / "Two experts of Wan.json"  # has files of its own
OF_FOLDERS = SHIPPED / "Which mode.json"  # is looked at for what it leaves in them
WORKFLOWS = sorted(set(SHIPPED.glob("*.json")) - {OF_WAN, OF_FOLDERS})
# Saved by earlier versions: a graph for every shape that a node has had.
FORMER = sorted((PACK_ROOT / "tests" / "graphs").glob("*.json"))
DEMOS = {"workflow": 5, "children": 11}  # columns of their pictures, of 6 rows


def demo(name: str) -> Path:
    return PACK_ROOT / "demo" / f"{name}.json"


# A picture of 512 pixels in 20 steps takes minutes without a GPU; nothing else is changed.
QUICK = {
    "KSampler": {"steps": 2},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "ProLoRARecord": {"samples": 3, "steps": 2, "positions": 16},
    "ProLoRARefine": {"steps": 2, "batch": 4},
}


def load(path: Path, object_info: dict) -> dict:
    graph = json.loads(path.read_text(encoding="utf-8"))
    for node in graph["nodes"]:
        for widget, value in QUICK.get(node["type"], {}).items():
            graph = with_widget(graph, object_info, node["id"], widget, value)
    return graph


# What a node of the graph says.
MOVED = "8 of 8 modules transferred"
SAYS = {
    "Base to distilled": MOVED,
    "Choose a threshold by picture": MOVED,
    "Compare checkpoints": "0 of 100 weights below a transfer's threshold",
    "Compare modes": MOVED,
    "Load a LoRA for this model": MOVED,
    "Load a stack of LoRAs": MOVED,
    "Record and refine": "8 of 8 modules heard, 2 of them in the text encoder",
    "Refine for few steps": "schedule 14.6",
    "Transfer a LoRA": MOVED,
    "Use a recording": "calibrated",
    "2026-11-23 transfer_lora": MOVED,
    "2026-11-24 compare_checkpoints": "0 of 100 weights below a transfer's threshold",
    "2026-11-28 base_to_distilled": "schedule 14.6",
    "2026-11-28 compare_modes": MOVED,
    "2026-11-28 record_and_refine": "8 of 8 modules heard, 2 of them in the text encoder",
}


@pytest.fixture(scope="module")
def recorded(comfy, client, sd15, object_info) -> None:
    """The recording that a graph names, made as its note says."""
    graph = load(SHIPPED / "Record and refine.json", object_info)
    client.queue(to_prompt(graph, object_info))
    assert (comfy.folder / RECORDING).is_file()


@pytest.mark.parametrize("path", [*WORKFLOWS, *FORMER], ids=lambda path: path.stem)
def test_a_workflow_runs(client, recorded, object_info, path):
    graph = load(path, object_info)
    done = client.queue(to_prompt(graph, object_info))
    shown = ("SaveImage", "PreviewImage", "ProLoRAReport")
    assert len(done.images()) == sum(node["type"] in shown for node in graph["nodes"])
    assert any(SAYS[path.stem] in text for text in done.texts())


def test_which_mode_makes_the_folders_that_evaluate_takes(client, comfy, sd15, object_info):
    """A folder a mode, in each the same seeds; twice as many pictures when it is queued again."""
    graph = load(OF_FOLDERS, object_info)
    for seed in (7, 8):
        for node in graph["nodes"]:
            if node["type"] == "EmptyLatentImage":
                graph = with_widget(graph, object_info, node["id"], "batch_size", 3)
            if node["type"] == "KSampler":  # the page does it after each queue
                graph = with_widget(graph, object_info, node["id"], "seed", seed)
        done = client.queue(to_prompt(graph, object_info))
        assert sum(MOVED in text for text in done.texts()) == 2
    rows = folders_of("", comfy.folder / "output" / "which_mode")
    assert rows.keys() == {"none", "copy", "full"}
    seen = {row: [read_picture(path).tobytes() for path in paths] for row, paths in rows.items()}
    for row, pictures in seen.items():
        assert (len(pictures), len(set(pictures))) == (6, 6), row
    assert all(a != b for a, b in zip(seen["none"], seen["full"], strict=True))


def test_two_experts(client, comfy, object_info):
    """With small models of both experts. They have no text encoder and no VAE, so a probe gives the
    text, and what would be decoded is saved."""
    skip_unless_it_loads(ARCHITECTURES["wan"], client)
    graph = json.loads(OF_WAN.read_text(encoding="utf-8"))
    put_wan(graph, comfy.folder / "models")
    prompt = to_prompt(graph, client.object_info())
    for node in prompt.values():
        if node["class_type"] == "CLIPTextEncode":
            node["class_type"] = "ProbeConditioning"
            node["inputs"] = {"context": ARCHITECTURES["wan"].context, "pooled": 0}
        if node["class_type"] == "EmptyHunyuanLatentVideo":
            node["inputs"] |= {"width": 64, "height": 64, "length": 5}
        if node["class_type"] == "VAEDecode":
            node["class_type"] = "SaveLatent"
            node["inputs"]["filename_prefix"] = "two_experts"
            del node["inputs"]["vae"]
        for widget in ("steps", "end_at_step", "start_at_step"):
            if node["class_type"] == "KSamplerAdvanced":
                node["inputs"][widget] = min(4, node["inputs"][widget] // 5)
    unused = ("CLIPLoader", "VAELoader", "CreateVideo", "SaveVideo")
    done = client.queue(
        {key: node for key, node in prompt.items() if node["class_type"] not in unused}
    )
    texts = [text for text in done.texts() if "modules transferred" in text]
    assert len(texts) == 2
    for expert in ("high", "low"):
        assert any(f"{expert}_noise" in text for text in texts)


def put_wan(graph: dict, models: Path) -> None:
    """Small files under the names that the graph names: the experts are children of Wan 2.1."""
    files = write_small_files("wan", models)
    for node in graph["nodes"]:
        if node["type"] == "UNETLoader":
            # The two must differ: what is alike is taken from the cache.
            share = 1.0 if "high" in node["title"] else 1.25
            child = load_file(models / "unet" / files.child)
            expert = {key: share * tensor for key, tensor in child.items()}
            save_file(expert, models / "unet" / node["widgets_values"][0])
        if node["type"] == "ProLoRALoadForModel":
            source = node["widgets_values"][1]
            copy(models / "unet" / files.parent, models / "unet" / source)
            node["widgets_values"][0] = files.lora


@pytest.mark.parametrize(("name", "columns"), DEMOS.items())
def test_a_demo_workflow(client, object_info, name, columns):
    done = client.queue(to_prompt(load(demo(name), object_info), object_info))
    assert len(done.images()) == columns * 6
