"""What bad input gets: an error for artists on the right node; graph and disk stay as they were."""

import threading

import pytest

from comfy_harness.client import PromptFailed, PromptInterrupted

from . import bad_files
from .checks import fails
from .prompts import PromptBuilder, out
from .slow_files import write_slow
from .small_sd15 import SOURCE

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"

BAD_LORAS = [
    (bad_files.empty, ["is empty"]),
    (bad_files.truncated, ["not a readable safetensors file", "ends early"]),
    (bad_files.renamed_text, ["not a readable safetensors file"]),
    (bad_files.pickle, ["is a pickle", "Convert it to .safetensors"]),
    (bad_files.claims_too_much, ["not a readable safetensors file", "claims more than it holds"]),
    (bad_files.gigabyte_header, ["not a readable safetensors file", "claims a size"]),
    (bad_files.no_lora, ["is no LoRA", "some.weight"]),
    (bad_files.half_a_pair, ["no LoRA down", "Download or export it again"]),
    (bad_files.nan, ["NaN or infinity"]),
    (bad_files.other_architecture, ["the names of Flux", "(SD3)", "Choose the checkpoint"]),
    (bad_files.other_width, ["does not fit", "96 x 32", "Choose the checkpoint"]),
    (bad_files.ip_adapter, ["is no LoRA", "2 of its 11 keys", "an IP-Adapter"]),
    (bad_files.of_a_known_tool, ["is no LoRA", "mystery_0", "seems to come from ai-toolkit"]),
]
# One of each family; the core has the full tables.
BAD_MODULES = [
    (bad_files.unequal_ranks, ["[576, 4]", "[3, 192]", "do not multiply"]),
    (bad_files.loha_without_a_factor, ["hada_w2_b"]),
    (bad_files.lokr_without_a_factor, ["has no lokr_w2_b"]),
    (bad_files.glora_without_a_factor, ["no b2"]),
    (bad_files.oft_of_no_squares, ["[72, 8, 7]", "not square"]),
    (bad_files.dora_of_another_width, ["[100, 1]", "an update of 576"]),
    (bad_files.magnitude_alone, ["dora_scale but no LoRA"]),
    (bad_files.foura_without_a_factor, ["foura_down"]),
    (bad_files.two_families, ["LoHa and LoRA"]),
]
AGAIN = ["joint_blocks_0_x_block_attn_qkv", "damaged", "Download or export it again"]
BAD_LORAS += [(make, [*fragments, *AGAIN]) for make, fragments in BAD_MODULES]
BAD_LORAS += [(bad_files.oft_of_another_width, ["changes a weight of 400 x any", "576 x 192"])]


@pytest.fixture
def files(comfy):
    """Everything in the output folder, with sizes: to be the same after a failure."""

    def listing():
        folder = comfy.folder / "output"
        return {str(p): p.stat().st_size for p in folder.rglob("*") if p.is_file()}

    return listing


@pytest.mark.parametrize(
    ("make", "fragments"), BAD_LORAS, ids=lambda case: getattr(case, "__name__", "")
)
def test_a_bad_lora(client, comfy, graph, files, make, fragments):
    name = f"bad_{make.__name__}.safetensors"
    make(comfy.folder / "models" / "loras" / name)
    source = graph.source(name)
    graph.save(graph.transfer(source, graph.checkpoint(B)), "loras/bad")
    before = files()
    fails(client, graph, source, name, *fragments)
    assert files() == before


def test_a_missing_lora(client, graph):
    source = graph.source("not_there.safetensors")
    graph.save(graph.transfer(source, graph.checkpoint(B)), "loras/bad")
    with pytest.raises(PromptFailed) as error:  # the host refuses it before anything runs
        client.queue(graph.prompt)
    assert "not_there.safetensors" in str(error.value) + str(error.value.node_errors)


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        (bad_files.pickle, ["is a pickle", "connect its MODEL instead"]),
        (bad_files.no_checkpoint, ["does not recognise", "connect its MODEL instead"]),
        (bad_files.claims_too_much, ["not a readable safetensors file"]),
    ],
)
def test_a_bad_source_checkpoint(client, comfy, graph, make, fragments):
    name = f"bad_{make.__name__}.safetensors"
    make(comfy.folder / "models" / "checkpoints" / name)
    source = graph.source(source_checkpoint=name)
    graph.save(graph.transfer(source, graph.checkpoint(B)), "loras/bad")
    fails(client, graph, source, name, *fragments)


def test_infinity_in_a_weight(client, comfy, graph):
    name = "infinite.safetensors"
    bad_files.infinite_checkpoint(comfy.folder / "models" / "checkpoints" / name)
    lora = graph.transfer(graph.source(source_checkpoint=name), graph.checkpoint(B))
    graph.save(lora, "loras/bad")
    fails(client, graph, lora, name, "attn.qkv.weight", "NaN or infinity")


def test_infinity_in_the_target(client, comfy, graph):
    name = "infinite_target.safetensors"
    bad_files.infinite_checkpoint(comfy.folder / "models" / "checkpoints" / name)
    lora = graph.transfer(graph.source(), graph.checkpoint(name))
    graph.save(lora, "loras/bad")
    fails(client, graph, lora, name, "attn.qkv.weight", "NaN or infinity")


def test_a_target_of_another_width(client, slow, graph):
    lora = graph.transfer(graph.source(), graph.checkpoint("slow_b.safetensors"))
    graph.save(lora, "loras/bad")
    fails(client, graph, lora, "their widths differ", "192 x 192", "512 x 512", "Choose a target")


def test_a_source_clip_without_a_source_model(client, sd15, graph):
    clip = out(graph.checkpoint(SOURCE), 1)
    source = graph.source(source_clip=clip)
    graph.save(graph.transfer(source, graph.checkpoint(B)), "loras/bad")
    fails(client, graph, source, "source_clip is connected without a source_model")


def test_no_source_at_all(client, graph):
    source = graph.source(source_checkpoint="(the connected source_model)")
    graph.save(graph.transfer(source, graph.checkpoint(B)), "loras/bad")
    fails(client, graph, source, "connect a MODEL")


def test_a_rank_larger_than_possible(client, graph):
    lora = graph.transfer(graph.source(), graph.checkpoint(B), rank=5000)
    graph.save(lora, "loras/bad")
    fails(client, graph, lora, "rank 5000 is larger than possible", "Choose a rank up to 192")


def test_nothing_to_save(client, graph, files):
    lora = graph.transfer(graph.source(), graph.checkpoint(B), threshold=1.0)
    saved = graph.save(lora, "loras/bad")
    before = files()
    fails(client, graph, saved, "nothing to save")
    assert files() == before


@pytest.mark.parametrize("prefix", ["../escaped", "loras/../../escaped", "/tmp/escaped"])
def test_a_prefix_that_climbs_out(client, comfy, graph, files, prefix):
    lora = graph.transfer(graph.source(), graph.checkpoint(B))
    saved = graph.save(lora, prefix)
    before = files()
    fails(client, graph, saved, "leads out of ComfyUI's output folder", prefix)
    assert files() == before
    assert not list(comfy.folder.parent.rglob("escaped*"))


def test_a_folder_that_cannot_be_written(client, comfy, graph, files):
    (comfy.folder / "output" / "in_the_way").write_text("a file where a folder should be")
    saved = graph.save(graph.transfer(graph.source(), graph.checkpoint(B)), "in_the_way/lora")
    before = files()
    fails(client, graph, saved, "Nothing was written")
    assert files() == before


@pytest.fixture(scope="module")
def slow(comfy):
    """An SD3-family checkpoint and a LoRA for it that take long enough to be cancelled."""
    write_slow(comfy.folder / "models")


def test_cancel_in_the_middle(client, comfy, slow, files, latents):
    graph = PromptBuilder()
    graph.latents(graph.checkpoint(B), "before_cancel")
    client.queue(graph.prompt)

    graph = PromptBuilder()
    source = graph.source("slow.safetensors", source_checkpoint="slow_a.safetensors")
    model = graph.checkpoint("slow_b.safetensors")
    lora = graph.transfer(source, model, threshold=0.0)
    graph.save(lora, "loras/cancelled")
    seen = []

    def cancel(progress) -> None:
        if progress.node_id == lora[0] and progress.value >= 1:
            if not seen:
                threading.Thread(target=client.interrupt).start()
            seen.append(progress.value)

    before = files()
    with pytest.raises(PromptInterrupted):
        client.queue(graph.prompt, cancel)
    assert 1 <= max(seen) < 24  # in the middle: 24 modules were asked for
    assert files() == before

    graph = PromptBuilder()
    graph.latents(graph.checkpoint(B), "after_cancel")
    client.queue(graph.prompt)
    assert (latents("after_cancel") == latents("before_cancel")).all()
