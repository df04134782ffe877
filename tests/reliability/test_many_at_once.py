"""Many at once: servers and command lines on one folder, models moved between nodes, one file."""

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from comfy_harness.server import ComfyServer
from tests.core.command_line_files import command, environment
from tests.host.checks import same
from tests.host.probes import NODES
from tests.host.prompts import PromptBuilder, out
from tests.host.small_sd15 import LORA, SOURCE, TARGET, write_small_sd15

from .asked import RAN, SENTENCE, ask
from .hosts import version_of

pytestmark = pytest.mark.host

DISTURBED = ("unload", "free", "load")


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[list[ComfyServer]]:
    """Two that share models/ and output/."""
    folders = [tmp_path_factory.mktemp("comfy") for _ in range(2)]
    for place in ("checkpoints", "loras"):
        (folders[0] / "models" / place).mkdir(parents=True)
    (folders[0] / "output").mkdir()
    write_small_sd15(folders[0] / "models")
    for name, place in ((LORA, "loras"), (SOURCE, "checkpoints"), (TARGET, "checkpoints")):
        for other in {"loras", "checkpoints"} - {place}:  # each in either list
            file = folders[0] / "models" / place / name
            (folders[0] / "models" / other / name).hardlink_to(file)
    for shared in ("models", "output"):
        (folders[1] / shared).symlink_to(folders[0] / shared)
    with ExitStack() as running:
        yield [running.enter_context(ComfyServer(folder, NODES)) for folder in folders]


@pytest.fixture
def comfy(servers) -> ComfyServer:
    return servers[0]


def saved(comfy: ComfyServer, prefix: str) -> list[dict[str, np.ndarray]]:
    found = sorted((comfy.folder / "output" / "loras").glob(f"{prefix}_*.safetensors"))
    return [load_file(path) for path in found]


def moved(threshold: float, prefix: str, loader: bool = True) -> PromptBuilder:
    """By the one node, with its cache, and by all nodes, into a file."""
    graph = PromptBuilder()
    model = graph.checkpoint(TARGET)
    if loader:
        given = {"source_checkpoint": SOURCE, "threshold": threshold, "mode": "full"}
        graph.node("ProbeFingerprint", model=graph.load_for_model(model, LORA, **given))
    lora = graph.transfer(graph.source(LORA, source_checkpoint=SOURCE), model, threshold=threshold)
    graph.save(lora, f"loras/{prefix}")
    return graph


def run_command_line(comfy: ComfyServer, cache: Path, number: int) -> None:
    models = comfy.folder / "models"
    words = [
        *("transfer", str(models / "loras" / LORA), "--threshold", "0", "--cache", str(cache)),
        *("--source", str(models / "checkpoints" / SOURCE)),
        *("--target", str(models / "checkpoints" / TARGET)),
        *("-o", str(comfy.folder / "output" / "loras" / f"command_{number}.safetensors")),
    ]
    subprocess.run(command(*words), env=environment(OMP_NUM_THREADS="1"), check=True, timeout=600)


def test_two_servers_and_the_command_line(servers, comfy, tmp_path, times, tell):
    rounds, commands = times(50), times(12)

    def serve(server: ComfyServer) -> None:
        client = server.client()
        for number in range(rounds):
            client.free()  # or all would come from the memory of the host
            client.queue(moved(number % 3 / 100, "shared").prompt)

    with ThreadPoolExecutor(3) as pool:
        both = [pool.submit(serve, server) for server in servers]
        each = [pool.submit(run_command_line, comfy, tmp_path, n) for n in range(commands)]
        for future in (*both, *each):
            future.result()
    files = saved(comfy, "shared")
    assert len(files) == 2 * rounds and all(same(one, files[0]) for one in files)
    made = saved(comfy, "command")
    assert len(made) == commands and all(same(one, made[0]) for one in made)
    output = comfy.folder / "output"
    assert not list(output.rglob(".prolora*")) and not list(tmp_path.rglob(".prolora*"))
    cached = list((output / "loras" / "prolora_moved").glob("*.safetensors"))
    assert len(cached) == 3 and all(same(load_file(path), files[0]) for path in cached)
    json.loads((output / "loras" / "prolora_moved" / "digests.json").read_text())
    tell(
        "many",
        "two servers and the command line on one cache and one output folder",
        2 * rounds + commands,
        f"{2 * rounds} files of {2 * rounds} saves under one name, all alike; "
        f"{len(cached)} entries in the cache; no temporary file",
        version_of(comfy.client()),
    )


def test_two_prompts_queued(comfy, times, tell):
    rounds = times(50)
    with ThreadPoolExecutor(4) as pool:
        prompts = [moved(0.1, "queued", loader=False).prompt for _ in range(rounds)]
        list(pool.map(lambda prompt: comfy.client().queue(prompt), prompts))
    files = saved(comfy, "queued")
    assert all(same(one, files[0]) for one in files)
    tell("many", "prompts queued while others run", rounds, "all alike", version_of(comfy.client()))


def test_the_same_node_twice(comfy, tell):
    graph = PromptBuilder()
    loaded = []
    for _ in range(2):
        model = graph.checkpoint(TARGET)
        given = {"source_checkpoint": SOURCE, "threshold": 0.2}
        loaded.append(graph.load_for_model(model, LORA, **given))
        lora = graph.transfer(graph.source(LORA, source_checkpoint=SOURCE), model)
        graph.save(lora, "loras/twice")
    compared = graph.node("ProbePatches", model=loaded[0], other_model=loaded[1])
    client = comfy.client()
    found = json.loads(client.queue(graph.prompt).of(compared[0])["text"][0]).values()
    assert found and all(one["change"] > 0 and one["difference"] == 0 for one in found)
    files = saved(comfy, "twice")
    assert len(files) == 2 and same(*files)
    tell("many", "each node twice in one graph", 1, "alike, in two files", version_of(client))


def disturbed(places: tuple[str, str, str], prefix: str) -> PromptBuilder:
    """A MODEL that a LoRA patches, which is sampled, moved to, and sampled with what was moved."""
    graph = PromptBuilder()
    model = graph.checkpoint(TARGET)
    patched = graph.core_lora(model, LORA, 0.7)
    latent = graph.node("EmptyLatentImage", width=64, height=64, batch_size=1)
    text = graph.node("CLIPTextEncode", clip=out(model, 1), text="a cat")

    def sample(of: list, name: str) -> list:
        given = {"model": of, "steps": 2, "cfg": 1.0, "scheduler": "normal", "seed": 1}
        given |= {"positive": text, "negative": text, "latent_image": latent, "denoise": 1.0}
        return graph.node("KSampler", sampler_name="euler", **given)

    def disturb(given: list, place: int) -> list:
        return graph.node("ProbeUnload", given=given, how=places[place], model=patched)

    first = sample(patched, "before")
    held = graph.node("ProbeUnload", given=patched, how="nothing", model=patched)
    held = disturb(held, 0)
    lora = disturb(graph.transfer(graph.source(LORA, source_checkpoint=SOURCE), held), 1)
    applied = disturb(graph.apply(held, lora), 2)
    graph.save(lora, f"loras/{prefix}")
    for number, samples in enumerate((first, sample(applied, "after"))):
        graph.node("SaveLatent", samples=samples, filename_prefix=f"{prefix}_{number}")
    return graph


def results(comfy: ComfyServer, prefix: str) -> list[np.ndarray]:
    output = comfy.folder / "output"
    latents = [max(output.glob(f"{prefix}_{n}_*.latent")) for n in range(2)]
    lora = saved(comfy, prefix)[-1]
    return [*(load_file(path)["latent_tensor"] for path in latents), *map(lora.get, sorted(lora))]


def test_models_that_move_between_two_nodes(comfy, tell):
    client, tried = comfy.client(), 0
    client.queue(disturbed(("nothing",) * 3, "undisturbed").prompt)
    true = results(comfy, "undisturbed")
    assert not np.array_equal(true[0], true[1])
    for place, how in product(range(3), DISTURBED):
        client.free()
        places = tuple(how if number == place else "nothing" for number in range(3))
        client.queue(disturbed(places, f"{how}{place}").prompt)
        found = results(comfy, f"{how}{place}")
        assert all(map(np.array_equal, found, true)), (place, how)
        tried += 1
    tell(
        "many",
        "a patched MODEL unloaded, offloaded or loaded between two nodes",
        tried,
        "the moved LoRA and both pictures to the bit as without",
        version_of(client),
    )


def test_memory_freed_while_prompts_are_queued(comfy, times, tell):
    client, rounds = comfy.client(), times(50)
    client.queue(disturbed(("nothing",) * 3, "unfreed").prompt)
    true, ended = results(comfy, "unfreed"), threading.Event()

    def free() -> None:
        while not ended.is_set():
            client.free()

    freeing = threading.Thread(target=free)
    freeing.start()
    try:
        for _ in range(rounds):
            client.queue(disturbed(("nothing",) * 3, "freed").prompt)
            assert all(map(np.array_equal, results(comfy, "freed"), true))
    finally:
        ended.set()
        freeing.join()
    tell("many", "POST /free while prompts run and wait", rounds, "all alike", version_of(client))


def test_one_file_in_every_role(comfy, tell):
    files, answers = (LORA, SOURCE, TARGET), Counter()
    prompts = {}
    for lora, source, target in product(files, files, files[1:]):
        graph = PromptBuilder()
        node = graph.transfer(
            graph.source(lora, source_checkpoint=source), graph.checkpoint(target)
        )
        graph.save(node, "loras/roles")
        prompts["transfer", lora, source, target] = graph
        graph = PromptBuilder()
        model = graph.checkpoint(target)
        loaded = graph.load_for_model(model, lora, source_checkpoint=source, cache_gb=0)
        graph.node("ProbeFingerprint", model=loaded)
        prompts["load", lora, source, target] = graph
    for base, tuned in product(files, files):
        graph = PromptBuilder()
        graph.save(graph.extract(base, tuned, rank=2), "loras/roles")
        prompts["extract", base, tuned] = graph
    for source, target in product(files, files[1:]):
        graph = PromptBuilder()
        given = {"model": graph.checkpoint(target), "source_checkpoint": source}
        node = graph.node("ProLoRASimilarity", subspace_energy=0.8, **given)
        graph.node("PreviewImage", images=node)
        prompts["similarity", source, target] = graph
    for roles, graph in prompts.items():
        given = ask(comfy, graph.prompt)
        assert given.kind in (RAN, SENTENCE), (roles, given)
        is_lora = [name == LORA for name in roles[1:]]
        right = is_lora == [roles[0] in ("transfer", "load"), *(False for _ in roles[2:])]
        assert (given.kind == RAN) <= right, (roles, given)
        answers[given.kind] += 1
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(answers.items()))
    tell(
        "many",
        "a LoRA and two checkpoints, each as LoRA, source, target, base and tuned model",
        len(prompts),
        found,
        version_of(comfy.client()),
    )
