"""Whole transfers to models with fewer blocks, or more, or other ones."""

import json
from dataclasses import replace

import pytest
import torch

from prolora.errors import ProLoRAError
from prolora.naming.output_names import rename
from prolora.transfer.job import transfer_lora
from prolora.transfer.report_text import summary_of
from prolora.transfer.settings import TransferSettings

from .dense_reference import dense_pair, dense_project
from .small_models import delta, matrix, random_weight
from .stacks import BLOCK, block, by_name, lora_for, model, noisy, stack
from .strategies import relative_error

PARENT = [block(seed) for seed in range(5)]
SOURCE = stack(PARENT)
FILE = lora_for(SOURCE)
ENERGY = 0.8
ANYWAY = TransferSettings("full", threshold=0.0, subspace_energy=ENERGY)
NEW = block(700)  # of no parent

# target block -> the parent's
CHILDREN = {
    "pruned": (0, 2, 3),
    "deepened": (0, None, 1, 2, 3, None, 4),
    "both": (0, None, 3, 4),
    "one left": (3,),
}


def child(parents, noise=0.15):
    return [NEW if p is None else noisy(PARENT[p], noise, p) for p in parents]


def run(target, settings=ANYWAY, source=SOURCE, file=FILE, **more):
    return transfer_lora(file, model("A", source), model("B", target), settings, **more)


def name_in(i, module):
    return f"lora_unet_blocks_{i}_{module.replace('.', '_')}"


@pytest.mark.parametrize("kind", CHILDREN)
def test_every_block_gets_its_own(kind):
    """As the dense reference moves it from the parent's block, and not as from its namesake."""
    parents, blocks = CHILDREN[kind], child(CHILDREN[kind])
    result = run(stack(blocks))
    made = by_name(result.adapters)
    assert made.keys() == {
        name_in(i, m) for i, p in enumerate(parents) if p is not None for m in BLOCK
    }
    updates = {adapter.name: delta(adapter) for adapter in FILE.adapters}
    for i, parent in enumerate(parents):
        for module in BLOCK if parent is not None else ():
            update = updates[name_in(parent, module)]
            wanted = dense_project(
                update,
                *dense_pair(matrix(PARENT[parent][module]), matrix(blocks[i][module]), ENERGY),
                "full",
            )
            found = delta(made[name_in(i, module)])
            assert relative_error(update, wanted) > 0.05
            assert relative_error(found, wanted) < 1e-5
            if parent != i and i < len(PARENT):
                assert relative_error(updates[name_in(i, module)], wanted) > 0.5


@pytest.mark.parametrize("kind", CHILDREN)
def test_what_the_report_says(kind):
    parents, result = CHILDREN[kind], run(stack(child(CHILDREN[kind])))
    report = json.loads(result.report.to_json())
    assert report["pairs"] == {
        f"blocks.{i}": None if p is None else f"blocks.{p}" for i, p in enumerate(parents)
    }
    rows = {row["name"]: row for row in report["rows"]}
    assert len(report["rows"]) == len(FILE.adapters)
    for i, parent in enumerate(parents):
        if parent is not None:
            row = rows[name_in(parent, "mlp.0")]
            assert row["status"] == "moved"
            assert row["source_key"] == f"diffusion_model.blocks.{parent}.mlp.0.weight"
            assert row["target_key"] == f"diffusion_model.blocks.{i}.mlp.0.weight"
    for left in set(range(len(PARENT))) - set(parents):
        row = rows[name_in(left, "mlp.0")]
        assert (row["status"], row["target_key"]) == ("skipped", "")
        assert row["reason"] == f"no block of the target B takes the source's blocks.{left}"


def test_the_stage_in_the_summary():
    summary = summary_of(run(stack(child((0, None, 3, 4)))).report)
    lines = [line.strip(" -") for line in summary.splitlines()]
    (stage,) = [line for line in lines if line.startswith("blocks, source -> target (")]
    assert "(similarity 0." in stage
    assert stage.endswith("by similarity): 0 -> 0, 3 -> 2, 4 -> 3")
    assert "without a source: 1" in lines
    assert "unmatched in the source: 1, 2" in lines


def test_models_that_line_up_have_no_stage_in_the_summary():
    summary = summary_of(run(stack(child(range(5)))).report)
    assert "->" not in summary


@pytest.mark.parametrize("kind", CHILDREN)
def test_copies_go_to_the_right_block(kind):
    parents = CHILDREN[kind]
    result = run(stack(child(parents)), replace(ANYWAY, mode="copy"))
    made = by_name(result.adapters)
    updates = {adapter.name: delta(adapter) for adapter in FILE.adapters}
    for i, parent in enumerate(parents):
        for module in BLOCK if parent is not None else ():
            wanted = updates[name_in(parent, module)]
            assert relative_error(delta(made[name_in(i, module)]), wanted) < 1e-6
            if parent != i and name_in(i, module) in updates:
                assert relative_error(updates[name_in(i, module)], wanted) > 0.5


def test_identical_weights_of_another_block_are_copied():
    result = run(stack(child((1, 3, 4), noise=0.0)))
    assert {row.reason for row in result.report.rows if row.status == "copied"} == {
        "the weights are identical"
    }
    assert result.report.count("copied") == 9
    first = by_name(result.adapters)[name_in(0, "mlp.0")]
    (lora,) = [a for a in FILE.adapters if a.name == name_in(1, "mlp.0")]
    assert relative_error(delta(first), delta(lora)) < 1e-6


@pytest.mark.parametrize("naming", ["kohya", "comfyui", "auto", "source"])
def test_the_names_that_are_written(naming):
    target = model("B", stack(child((0, 2, 3))))
    result = transfer_lora(FILE, model("A", SOURCE), target, ANYWAY)
    renamed = rename(result.contents, target.key_map, target.architecture, naming)
    keys = {target.key_map[adapter.name].key for adapter in renamed.adapters}
    assert keys == {ref.key for ref in target.key_map.values()}
    assert len(keys) == len(renamed.adapters)


@pytest.mark.parametrize(
    "spelling", ["lora_unet_{flat}", "diffusion_model.{dotted}", "pipe.dit.{dotted}"]
)
def test_names_are_spelled_as_they_were(spelling):
    def respelled(path):
        return spelling.format(flat=path.replace(".", "_"), dotted=path)

    adapters = [
        replace(adapter, name=respelled(path))
        for adapter, path in zip(FILE.adapters, SOURCE, strict=True)
    ]
    target = model("B", stack(child((0, 2, 3))))
    result = transfer_lora(
        replace(FILE, adapters=tuple(adapters)), model("A", SOURCE), target, ANYWAY
    )
    names = {adapter.name for adapter in result.adapters}
    if "pipe" not in spelling:
        assert names == {respelled(path) for path in stack(child((0, 2, 3)))}
    assert {target.resolve(name).key for name in names} == set(target.weights)


def test_blocks_and_what_lies_outside_of_them():
    outside = {"img_in": random_weight((16, 8), 1), "final_layer.linear": random_weight((8, 16), 2)}
    source = SOURCE | outside
    result = run(stack(child((1, 2, 3, 4))) | outside, source=source, file=lora_for(source))
    names = {adapter.name for adapter in result.adapters}
    assert {"lora_unet_img_in", "lora_unet_final_layer_linear"} <= names
    assert len(names) == 14


def test_a_list_of_single_weights():
    """Its entries are no blocks, and are aligned all the same: none goes by its old number."""
    source = {f"layers.{i}": PARENT[i]["mlp.0"] for i in range(5)}
    target = {f"layers.{i}": noisy(PARENT[p], 0.1, p)["mlp.0"] for i, p in enumerate((0, 2, 4))}
    file = lora_for(source)
    result = run(target, replace(ANYWAY, mode="copy"), source, file)
    updates = {adapter.name: delta(adapter) for adapter in file.adapters}
    made = by_name(result.adapters)
    assert made.keys() == {f"lora_unet_layers_{i}" for i in range(3)}
    for i, parent in enumerate((0, 2, 4)):
        wanted = updates[f"lora_unet_layers_{parent}"]
        assert relative_error(delta(made[f"lora_unet_layers_{i}"]), wanted) < 1e-6
    skipped = {row.name: row.reason for row in result.report.rows if row.status == "skipped"}
    assert skipped.keys() == {"lora_unet_layers_1", "lora_unet_layers_3"}
    assert all("no block of the target B takes" in reason for reason in skipped.values())


# Leaving


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 5, 20, 30])
def test_cancelling_while_blocks_are_compared(after):
    seen = []

    def progress(done, total, name):
        seen.append((done, total, name))
        if len(seen) == after:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(stack(child((0, 2, 3))), progress=progress)
    assert len(seen) == after
    comparing = [name for _, _, name in seen if name.startswith(("A: ", "B: "))]
    assert comparing == [name for _, _, name in seen][:24]  # 5 + 3 blocks of 3 weights, each once


# Weights that cannot be read


def spoiled(kind):
    weight = random_weight((16, 24), 3)
    if kind == "int8":
        return weight.to(torch.int8)
    return torch.where(torch.arange(24) == 3, float("nan"), weight)


@pytest.mark.parametrize("kind", ["int8", "nan"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_weight_that_cannot_be_read(kind, side):
    """It stops nothing that does not need it, and stops what does."""
    weights = {"source": dict(SOURCE), "target": stack(child((0, 2, 3)))}
    weights[side]["blocks.1.attn.out"] = spoiled(kind)
    untouched = lora_for(SOURCE, *(path for path in SOURCE if "out" not in path))
    result = run(**weights, file=untouched)
    assert result.report.pairs == {f"blocks.{i}": f"blocks.{p}" for i, p in enumerate((0, 2, 3))}
    name = {"source": "A", "target": "B"}[side]
    with pytest.raises(ProLoRAError, match=rf"blocks\.1\.attn\.out\.weight of {name}"):
        run(**weights, file=FILE)


def test_blocks_of_one_width_are_never_paired_by_their_shape():
    """One kind of another width, as in the last block of SD3, does not make it another model."""
    source = stack([*PARENT, {**block(9), "mlp.0": random_weight((8, 16))}])
    target = stack([block(800 + i) for i in range(3)])
    target["blocks.2.mlp.0"] = random_weight((48, 16))
    with pytest.raises(ProLoRAError, match=r"no block of the target B takes the source's blocks.0"):
        run(target, source=source, file=lora_for(source))
