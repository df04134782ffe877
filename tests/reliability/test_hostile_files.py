"""Links, pipes, devices and steering names in the folders of models; steering texts in headers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from comfy_harness.server import ComfyServer
from tests.host.checks import steering_lines, trespasses
from tests.host.hostile_files import (
    KEYS,
    TEXTS,
    put_no_files,
    with_a_type,
    with_keys,
    with_metadata,
)
from tests.host.probes import NODES
from tests.host.prompts import PromptBuilder, out
from tests.host.small_sd15 import LORA, SOURCE, TARGET, write_small_sd15

from .asked import RAN, SENTENCE, ask, files_below
from .hosts import version_of

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def around(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("around")


@pytest.fixture(scope="module")
def comfy(around) -> Iterator[ComfyServer]:
    models = around / "comfy" / "models"
    for place in ("checkpoints", "loras"):
        (models / place).mkdir(parents=True)
    write_small_sd15(models)
    with ComfyServer(around / "comfy", NODES) as server:
        yield server


def moved(lora: str, source: str = SOURCE) -> PromptBuilder:
    """Every node that says something of the files."""
    graph = PromptBuilder()
    model = graph.checkpoint(TARGET)
    node = graph.transfer(graph.source(lora, source_checkpoint=source), model)
    graph.save(node, "loras/hostile", "fp16")
    graph.node("ProLoRAReport", lora=node, filename_prefix="reports/hostile")
    at_once = graph.load_for_model(model, lora, source_checkpoint=source)
    graph.node("ProbeFingerprint", model=at_once)
    return graph


def loaded(lora: str, source: str = SOURCE) -> PromptBuilder:
    graph = PromptBuilder()
    node = graph.source(lora, source_checkpoint=source)
    graph.node("PreviewAny", source=out(node, 1))
    return graph


def newest(comfy: ComfyServer, pattern: str) -> Path:
    return max((comfy.folder / "output").glob(pattern))


def said(outputs: str) -> list[str]:
    return [text for shown in json.loads(outputs).values() for text in shown.get("text", ())]


def is_plain(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


def test_entries_that_are_no_files(comfy, around, tell):
    client, tried = comfy.client(), 0
    before = files_below(around / "comfy" / "models")
    for place, good in (("loras", LORA), ("checkpoints", SOURCE)):
        folder = comfy.folder / "models" / place
        readable = put_no_files(folder, folder / good, around / f"outside_{place}")
        before |= files_below(folder) | files_below(around / f"outside_{place}")
        for name, is_file in readable.items():
            files = (name, SOURCE) if place == "loras" else (LORA, name)
            given = ask(comfy, (moved if is_file else loaded)(*files).prompt)
            assert given.is_fine, (name, given)
            assert given.kind == RAN or not is_file, (name, given)
            assert given.kind != RAN or all(map(is_plain, said(given.text))), (name, given)
            tried += 1
    outside = files_below(around / "comfy" / "models").items() | {
        item
        for place in ("loras", "checkpoints")
        for item in files_below(around / f"outside_{place}").items()
    }
    assert dict(outside) == before
    assert not trespasses(client)
    tell(
        "hostile",
        "links, pipes, sockets, devices and steering names as LoRAs and checkpoints",
        tried,
        "what ComfyUI's own loader reads was moved; each other a sentence, nothing waited for",
        version_of(client),
    )


MAKERS = {"metadata": with_metadata, "keys": with_keys}


@pytest.mark.parametrize("place", MAKERS)
def test_steering_texts(comfy, tell, place):
    client, loras = comfy.client(), comfy.folder / "models" / "loras"
    for label, text in TEXTS.items():
        name = f"{place}_{label}.safetensors"
        MAKERS[place](loras / LORA, text, loras / name)
        since = len(comfy.log_text())
        given = ask(comfy, moved(name).prompt)
        assert given.kind == RAN, (label, given.kind, given.text[:500])
        assert all(map(is_plain, said(given.text))) and len(given.text) < 60_000, label
        assert not steering_lines(comfy.log_text()[since:]), label
        report = json.loads(newest(comfy, "reports/hostile_*.json").read_text())
        assert report["lora"] == name
        with safe_open(newest(comfy, "loras/hostile_*.safetensors"), "np") as saved:
            metadata = saved.metadata()
        assert place != "metadata" or metadata["modelspec.title"] == text
        if place == "metadata":
            assert KEYS[0] in metadata and metadata[text[:200]] == text  # all of it, as it was
    assert not trespasses(client)
    tell(
        "hostile",
        f"steering texts in a LoRA's {place}: log, node, report, picture, saved header",
        len(TEXTS),
        "text everywhere, cut to a line where it is shown, whole in the saved header",
        version_of(client),
    )


def test_steering_types(comfy):
    """What the library says of a header, with the header's words, reaches page and log."""
    loras = comfy.folder / "models" / "loras"
    for label, text in TEXTS.items():
        with_a_type(text, loras / f"type_{label}.safetensors")
        since = len(comfy.log_text())
        given = ask(comfy, moved(f"type_{label}.safetensors").prompt)
        assert given.kind == SENTENCE, (label, given)
        assert not steering_lines(comfy.log_text()[since:]), label
