"""Other packs beside ours: PACKS names a folder of them; all are loaded into one ComfyUI.

They patch the host (its executor, samplers, loaders); ours must give the same bits, read their
stacks, and what ours saves must be loaded by their LoRA loaders.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from comfy_harness.server import ComfyServer
from tests.host.checks import relative, same
from tests.host.prompts import PromptBuilder, out
from tests.host.small_sd15 import SOURCE, write_small_sd15

from .hosts import host_in, version_of

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif("PACKS" not in os.environ, reason="PACKS names no folder of other packs"),
]

B, LORA, MOVED = "emoji_b.safetensors", "emoji_style_lora.safetensors", "moved.safetensors"

# A node of another pack that loads a LoRA -> the MODEL that it makes.
Load = Callable[[PromptBuilder, list, list], list]
LOADERS: dict[str, Load] = {
    "Power Lora Loader (rgthree)": lambda graph, model, clip: graph.node(
        "Power Lora Loader (rgthree)",
        model=model,
        lora_1={"on": True, "lora": MOVED, "strength": 1.0},
    ),
    "Lora Loader Stack (rgthree)": lambda graph, model, clip: graph.node(
        "Lora Loader Stack (rgthree)",
        model=model,
        clip=clip,
        **{f"lora_0{i}": MOVED if i == 1 else "None" for i in range(1, 5)},
        **{f"strength_0{i}": 1.0 for i in range(1, 5)},
    ),
    "LoraLoader|pysssss": lambda graph, model, clip: graph.node(
        "LoraLoader|pysssss",
        model=model,
        clip=clip,
        lora_name=MOVED,
        strength_model=1.0,
        strength_clip=1.0,
    ),
}
STACKER = "LoRA Stacker"  # of Efficiency Nodes


def packs() -> dict[str, Path]:
    return {path.name: path for path in sorted(Path(os.environ["PACKS"]).iterdir())}


def moved(server: ComfyServer) -> dict[str, np.ndarray]:
    graph = PromptBuilder()
    graph.save(graph.transfer(graph.source(LORA), graph.checkpoint(B)), "loras/moved")
    server.client().queue(graph.prompt)
    return load_file(max((server.folder / "output" / "loras").glob("moved_*.safetensors")))


def drawn(server: ComfyServer, load: Callable[[PromptBuilder, list], list]) -> np.ndarray:
    graph = PromptBuilder()
    graph.latents(load(graph, graph.checkpoint(B)), "packs")
    server.client().queue(graph.prompt)
    newest = max((server.folder / "output").glob("packs_*.latent"))
    return load_file(newest)["latent_tensor"].astype(np.float64)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Iterator[dict[str, np.ndarray]]:
    """What ours gives without them."""
    with host_in(tmp_path_factory.mktemp("alone")) as server:
        yield moved(server)


@pytest.fixture(scope="module")
def server(tmp_path_factory, alone) -> Iterator[ComfyServer]:
    folder = tmp_path_factory.mktemp("comfy")
    (folder / "models" / "loras").mkdir(parents=True)
    save_file(alone, folder / "models" / "loras" / MOVED)  # some packs look once, at the start
    with host_in(folder, packs()) as found:
        write_small_sd15(folder / "models")
        yield found


def failed(server: ComfyServer) -> set[str]:
    """The packs that the host could not import, for want of what they need."""
    lines = server.log_text().splitlines()
    return {Path(line.rpartition(" ")[2]).name for line in lines if "(IMPORT FAILED)" in line}


def test_other_packs(alone, server, tell):
    client = server.client()
    known, not_loaded = client.object_info(), failed(server)
    loaded = sorted(packs().keys() - not_loaded)
    assert loaded and same(moved(server), alone)
    plain = drawn(server, lambda graph, model: model)
    by_host = drawn(server, lambda graph, model: graph.core_lora(model, MOVED))
    assert relative(plain, by_host) > 0.1
    used = [name for name in LOADERS if name in known]
    for name in used:

        def theirs(graph: PromptBuilder, model: list, name: str = name) -> list:
            return LOADERS[name](graph, model, out(graph.checkpoint(SOURCE), 1))

        assert relative(drawn(server, theirs), by_host) < 1e-5, name
        graph = PromptBuilder()  # what their loader has patched into a MODEL does not count
        lora = graph.transfer(graph.source(LORA), theirs(graph, graph.checkpoint(B)))
        graph.save(lora, "loras/on_theirs")
        client.queue(graph.prompt)
        on_theirs = max((server.folder / "output" / "loras").glob("on_theirs_*.safetensors"))
        assert same(load_file(on_theirs), alone), name
    if STACKER in known:
        used.append(STACKER)

        def stacked(graph: PromptBuilder, model: list) -> list:
            widgets = {f"lora_name_{i}": LORA if i == 1 else "None" for i in range(1, 51)}
            for kind in ("lora_wt", "model_str", "clip_str"):
                widgets |= {f"{kind}_{i}": 1.0 for i in range(1, 51)}
            stack = graph.node(STACKER, input_mode="simple", lora_count=1, **widgets)
            return graph.stack(model, "", lora_stack=stack)

        assert relative(drawn(server, stacked), by_host) < 1e-3
    found = f"loaded beside: {', '.join(loaded)}; the same bits; used: {', '.join(used)}"
    if not_loaded:
        found += f"; not loaded, for want of their libraries: {', '.join(sorted(not_loaded))}"
    tell("hosts", "Other packs beside ours", len(loaded), found, version_of(client))
