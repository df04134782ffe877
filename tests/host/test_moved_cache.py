"""What was moved is kept by content: found after a restart, never served where it is stale."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from comfy_harness.client import PromptInterrupted
from comfy_harness.hosts import PACK_ROOT
from comfy_harness.server import ComfyServer
from demo.run import MODEL_FOLDERS

from .changed_files import changed
from .checks import relative
from .probes import NODES
from .prompts import PromptBuilder

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
LORA = "emoji_style_lora.safetensors"
TAKEN, KEPT = "taken from the cache: ", "kept in the cache: "
# How long a file must have been left alone until its digest is remembered.
TICK = 2.0


@pytest.fixture(scope="module")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server of its own, whose files may be replaced."""
    folder = tmp_path_factory.mktemp("cached")
    for name, place in MODEL_FOLDERS.items():
        (folder / "models" / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(PACK_ROOT / "demo" / "models" / name, folder / "models" / place / name)
    with ComfyServer(folder, NODES) as server:
        yield server


@pytest.fixture(scope="module")
def client(comfy):
    return comfy.client()


@pytest.fixture(autouse=True)
def empty_cache(comfy) -> None:
    shutil.rmtree(cache(comfy), ignore_errors=True)


def cache(comfy) -> Path:
    return comfy.folder / "output" / "loras" / "prolora_moved"


def entries(comfy) -> list[Path]:
    return sorted(cache(comfy).glob("*.safetensors"))


def path_of(comfy, name: str) -> Path:
    return comfy.folder / "models" / MODEL_FOLDERS[name] / name


def run(client, prefix: str = "cached", free: bool = True, lora: str = LORA, **inputs) -> str:
    """What the node says, once more from the start. In mode full all three files count."""
    graph = PromptBuilder()
    one = graph.load_for_model(graph.checkpoint(B), lora, **({"mode": "full"} | inputs))
    graph.latents(one, prefix)
    if free:
        client.free()
    return client.queue(graph.prompt).of(one[0])["text"][0]


def last(summary: str) -> str:
    return summary.splitlines()[-1].removeprefix("- ")


def test_a_second_start(client, comfy, latents):
    """After a restart, and of the same files under other names: the content counts."""
    first = run(client, "made")
    assert last(first).startswith(KEPT)
    (entry,) = entries(comfy)
    assert entry.name == last(first).removeprefix(KEPT)
    assert entry.name.startswith("emoji_style_lora for emoji_b ")
    comfy.stop()
    comfy.start()
    again = run(client, "found")
    assert last(again) == f"{TAKEN}{entry.name}"
    assert again.splitlines()[:-1] == first.splitlines()[:-1]
    shutil.copy(path_of(comfy, LORA), path_of(comfy, LORA).with_name("renamed.safetensors"))
    shutil.copy(path_of(comfy, A), path_of(comfy, A).with_name("copy of a.safetensors"))
    copied = {"lora": "renamed.safetensors", "source_checkpoint": "copy of a.safetensors"}
    renamed = run(client, "renamed", **copied)
    assert last(renamed) == f"{TAKEN}{entry.name}"
    assert f"now renamed.safetensors, from copy of a.safetensors to {B}" in renamed
    run(client, "uncached", cache_gb=0)
    for prefix in ("found", "renamed", "uncached"):
        assert np.array_equal(latents("made"), latents(prefix)), prefix


@pytest.mark.parametrize("name", [LORA, A, B])
def test_a_file_that_was_replaced(client, comfy, latents, name):
    """The name, the size and the time of the content are those of before."""
    path = path_of(comfy, name)
    before = path.read_bytes(), path.stat()
    time.sleep(TICK)
    run(client, "not_replaced")
    try:
        tensors = load_file(path)
        save_file({key: changed(key, tensor) for key, tensor in tensors.items()}, path)
        os.utime(path, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (
            before[1].st_size,
            before[1].st_mtime_ns,
        )
        # The host has to load a checkpoint again; of the others the node finds out by itself.
        summary = run(client, "replaced", free=name == B)
        assert last(summary).startswith(KEPT)
        assert len(entries(comfy)) == 2
        run(client, "replaced_uncached", cache_gb=0)
        assert relative(latents("not_replaced"), latents("replaced_uncached")) > 1e-3
        assert np.array_equal(latents("replaced"), latents("replaced_uncached"))
    finally:
        path.write_bytes(before[0])
    assert TAKEN in run(client, "restored")
    assert np.array_equal(latents("restored"), latents("not_replaced"))


def test_what_was_chosen_counts_and_the_strength_does_not(client, comfy):
    run(client)
    for inputs in ({"threshold": 0.7}, {"mode": "auto"}, {"source_checkpoint": B}):
        assert last(run(client, **inputs)).startswith(KEPT), inputs
    assert len(entries(comfy)) == 4
    for inputs in ({"strength_model": 0.5}, {"mode": "alike"}, {"cache_gb": 1}):
        assert TAKEN in run(client, **inputs), inputs
    assert len(entries(comfy)) == 4


def test_how_the_source_was_chosen_is_of_this_run(client, comfy):
    """auto took it by its name, which is a guess; by hand it is none."""
    tensors = load_file(path_of(comfy, LORA))
    save_file(
        tensors, path_of(comfy, LORA).with_name("says a.safetensors"), {"ss_sd_model_name": A}
    )
    for source, guesses in (("auto", True), (A, False), ("auto", True)):
        text = run(client, lora="says a.safetensors", source_checkpoint=source)
        assert ("a guess" in text) == guesses
    assert TAKEN in text


def test_off(client, comfy):
    for inputs in ({"cache_gb": 0}, {"strength_model": 0.0}):
        assert "cache" not in run(client, **inputs)
    assert not cache(comfy).exists()


def test_the_oldest_goes_first(client, comfy):
    """Over the limit of 1 GB by an old entry; what is no entry stays."""
    cache(comfy).mkdir(parents=True)
    sizes = {"old": 0.7, "used": 0.7, "foreign": 2.0}
    for age, (name, size) in enumerate(sizes.items()):
        mark = {} if name == "foreign" else {"prolora_cache_key": "0" * 64}
        path = cache(comfy) / f"{name} for b 00000000.safetensors"
        write_empty(path, size, mark)
        hour = time.time() - 3600 * (len(sizes) - age)
        os.utime(path, (hour, hour))
    run(client, cache_gb=1)
    names = [path.name.split()[0] for path in entries(comfy)]
    assert names == ["emoji_style_lora", "foreign", "used"]


def write_empty(path: Path, gigabytes: float, mark: dict[str, str]) -> None:
    """A sound safetensors file of zeros, which take no place on the disk."""
    size = int(gigabytes * 1e9)
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": mark, "x": tensor}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


@pytest.mark.parametrize("damage", ["a byte", "the end"])
def test_a_damaged_entry_is_told_and_made_again(client, comfy, latents, damage):
    run(client, "sound")
    (entry,) = entries(comfy)
    content = bytearray(entry.read_bytes())
    content[-1000] ^= 64
    entry.write_bytes(content if damage == "a byte" else content[:-1000])
    summary = run(client, "after_damage")
    assert f"moved again, because in the cache {entry.name} is " in summary
    assert last(summary) == f"{KEPT}{entry.name}"
    assert np.array_equal(latents("after_damage"), latents("sound"))
    assert TAKEN in run(client)


def test_a_file_of_another_in_its_place_is_left(client, comfy):
    run(client)
    (entry,) = entries(comfy)
    save_file({"x": torch.zeros(1)}, entry)
    content = entry.read_bytes()
    summary = run(client)
    assert f"{entry.name} was not written by ProLoRA's cache" in summary
    assert last(summary).startswith("not kept: ") and "Move it elsewhere" in summary
    assert entry.read_bytes() == content


def test_a_cancelled_run_leaves_nothing(client, comfy):
    graph = PromptBuilder()
    one = graph.load_for_model(graph.checkpoint(B), LORA)
    graph.latents(one, "cancelled")

    def cancel(progress):
        if progress.node_id == one[0] and progress.value > 2:
            client.interrupt()

    client.free()
    with pytest.raises(PromptInterrupted):
        client.queue(graph.prompt, on_progress=cancel)
    assert not [path for path in cache(comfy).glob("*") if path.name != "digests.json"]


@pytest.fixture(scope="module")
def heard(client, comfy) -> str:
    """A LoRA with its recording beside it."""
    shutil.copy(path_of(comfy, LORA), path_of(comfy, LORA).with_name("heard.safetensors"))
    graph = PromptBuilder()
    recording = graph.record(graph.source("heard.safetensors"), graph.checkpoint(A))
    graph.node("ProLoRASaveRecording", recording=recording, filename_prefix="recordings/heard")
    client.queue(graph.prompt)
    (made,) = (comfy.folder / "output" / "recordings").glob("heard_*")
    shutil.copy(made, path_of(comfy, LORA).with_name("heard.recording.safetensors"))
    return "heard.safetensors"


def test_a_lora_that_came_before_does_not_count(client, heard):
    """The host keeps its header with the MODEL: that of an entry is no other than that of a new."""

    def ran(strength: float) -> list[str]:
        graph = PromptBuilder()
        first = graph.load_for_model(graph.checkpoint(B), LORA, strength_model=strength)
        second = graph.load_for_model(first, heard)
        graph.latents(second, "one_after_another")
        client.free()
        done = client.queue(graph.prompt)
        return [last(done.of(node[0])["text"][0]) for node in (first, second)]

    assert all(text.startswith(KEPT) for text in ran(1.0))
    assert all(text.startswith(TAKEN) for text in ran(1.0))
    assert ran(0.0)[1].startswith(TAKEN)


def test_what_a_recording_hangs_on(client, heard):
    """By a recording the MODEL runs, so that what other nodes do to it counts too."""

    def ran(changes: dict | None, **inputs) -> str:
        graph = PromptBuilder()
        model = graph.checkpoint(B)
        for node, widgets in (changes or {}).items():
            model = graph.node(node, model=model, **widgets)
        one = graph.load_for_model(model, heard, **inputs)
        graph.latents(one, "heard")
        client.free()
        return last(client.queue(graph.prompt).of(one[0])["text"][0])

    shifts = [{"ModelSamplingSD3": {"shift": shift}} for shift in (1.0, 2.5)]
    assert all(ran(changes).startswith(KEPT) for changes in (None, *shifts))
    assert all(ran(changes).startswith(TAKEN) for changes in (None, *shifts))
    rescaled = {"RescaleCFG": {"multiplier": 0.7}}
    assert ran(rescaled).startswith("not kept: it hangs on a function")
    # By weights alone nothing of that counts.
    assert ran(None, mode="full").startswith(KEPT)
    assert all(ran(c, mode="full").startswith(TAKEN) for c in (*shifts, rescaled))
