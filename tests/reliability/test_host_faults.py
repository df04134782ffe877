"""A ComfyUI whose disks refuse and whose files change as they are read: it says so, and lives."""

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comfy_harness.client import PromptFailed
from comfy_harness.hosts import PACK_ROOT
from comfy_harness.server import ComfyServer
from demo.run import MODEL_FOLDERS
from tests.host.probes import NODES
from tests.host.prompts import PromptBuilder
from tests.host.slow_files import write_slow

from .drives import fill, only_to_read, small_drive
from .hosts import version_of

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
LORA = "emoji_style_lora.safetensors"
ROUNDS = 40


@pytest.fixture
def folder(tmp_path) -> Path:
    """A host's, with files of its own."""
    for name, place in MODEL_FOLDERS.items():
        (tmp_path / "models" / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(PACK_ROOT / "demo" / "models" / name, tmp_path / "models" / place / name)
    return tmp_path


@pytest.fixture
def on_drives(folder) -> Iterator[ComfyServer]:
    """One whose output folder and temporary folder are drives of their own."""
    drives = small_drive(folder / "output"), small_drive(folder / "temp")
    with drives[0], drives[1], ComfyServer(folder, NODES) as server:
        yield server


def moved(graph: PromptBuilder) -> list:
    return graph.transfer(graph.source(LORA), graph.checkpoint(B), threshold=0.0)


def recorded(graph: PromptBuilder) -> list:
    recording = graph.record(graph.source(LORA), graph.checkpoint(A), samples=2)
    prefix = {"recording": recording, "filename_prefix": "recordings/new"}
    return graph.node("ProLoRASaveRecording", **prefix)


def reported(graph: PromptBuilder) -> list:
    return graph.node("ProLoRAReport", lora=moved(graph), filename_prefix="reports/new")


def shown(graph: PromptBuilder) -> list:
    return graph.node("ProLoRAReport", lora=moved(graph), filename_prefix="")


def loaded(graph: PromptBuilder) -> list:
    node = graph.load_for_model(graph.checkpoint(B), LORA, source_checkpoint=A)
    graph.node("ProbeText", text=[node[0], 2])
    return node


# What is written -> the node that writes it.
PLACES: dict[str, Callable[[PromptBuilder], list]] = {
    "a moved LoRA": lambda graph: graph.save(moved(graph), "loras/new"),
    "a recording": recorded,
    "a report": reported,
    "a picture for the page": shown,
}
FAULTS = {
    "a full drive": (fill, "No space left on device. Nothing was written. Make room on that disk"),
    "a drive that is only to be read": (only_to_read, "Read-only file system"),
}


def files(folder: Path) -> dict[Path, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "filler")
    return {path: path.read_bytes() for path in found}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_place_on_a_drive_that_refuses(tell, on_drives, fault):
    arrange, words = FAULTS[fault]
    client, drives = on_drives.client(), [on_drives.folder / name for name in ("output", "temp")]
    for place in PLACES.values():  # the older files
        graph = PromptBuilder()
        place(graph)
        client.queue(graph.prompt)
    graph = PromptBuilder()
    node = loaded(graph)
    for drive in drives:
        arrange(drive)
    before = {path: content for drive in drives for path, content in files(drive).items()}
    assert len(before) >= len(PLACES)
    told = client.queue(graph.prompt).of(node[0])["text"][0]
    assert words.partition(".")[0] in told  # it is used all the same, and not kept
    for place, make in PLACES.items():
        graph = PromptBuilder()
        node = make(graph)
        client.free()
        with pytest.raises(PromptFailed) as error:
            client.queue(graph.prompt)
        assert error.value.node_id == node[0], place
        assert error.value.exception_type == "ProLoRAError", (place, error.value.message)
        assert words in error.value.message, (place, error.value.message)
    assert before == {path: data for drive in drives for path, data in files(drive).items()}
    assert on_drives.is_running()
    tell(
        "faults",
        f"{fault}: every node that writes, and the cache of moved LoRAs",
        len(PLACES) + 1,
        f"{len(PLACES)} sentences; Load for Model used what it had moved and said that it is not "
        "kept; every older file as it was, nothing left",
        version_of(client),
    )


def cut(path: Path) -> None:
    os.truncate(path, random.randrange(path.stat().st_size))


def replaced(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".new"))
    os.utime(path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "replaced": replaced,
    "removed": Path.unlink,
}


def test_files_that_change_while_they_are_read(times, tell, folder):
    """The source, whose weights are read one at a time, and the LoRA."""
    write_slow(folder / "models")
    names = {"source": "checkpoints/slow_a.safetensors", "LoRA": "loras/slow.safetensors"}
    whole = {name: (folder / "models" / name).read_bytes() for name in names.values()}
    count, done, refused, moments = times(ROUNDS), 0, {"source": 0, "LoRA": 0}, random.Random(0)
    with ComfyServer(folder, NODES) as server:
        client = server.client()

        def prompt(number: int) -> PromptBuilder:
            graph = PromptBuilder()
            lora = graph.source("slow.safetensors", source_checkpoint="slow_a.safetensors")
            given = {"threshold": 0.0, "subspace_energy": 0.3 + 0.5 * number / count}
            target = graph.checkpoint("slow_b.safetensors")
            graph.save(graph.transfer(lora, target, **given), "loras/changed")
            return graph

        began = time.monotonic()
        client.queue(prompt(0).prompt)
        length = time.monotonic() - began
        for number in range(1, count + 1):
            which = moments.choice(["source", "source", "LoRA"])
            change = CHANGES[moments.choice(sorted(CHANGES))]
            path = folder / "models" / names[which]
            timer = threading.Timer(moments.uniform(0, length), change, [path])
            timer.start()
            try:
                client.queue(prompt(number).prompt)
                done += 1
            except PromptFailed as error:
                refused[which] += 1
                assert "ProLoRAError" in (error.exception_type or "ProLoRAError"), error.message
            timer.join()
            assert server.is_running(), server.log_tail()
            for name, content in whole.items():
                (folder / "models" / name).write_bytes(content)
        client.queue(prompt(count + 1).prompt)  # as if nothing had been
        version = version_of(client)
    assert refused["source"]
    tell(
        "faults",
        "a checkpoint or LoRA cut, replaced or removed at a random moment of a transfer",
        count,
        f"{done} were not touched by it any more, {sum(refused.values())} were told in a sentence "
        "that the file changed or is damaged; the ComfyUI lived, and moved the next",
        version,
    )
