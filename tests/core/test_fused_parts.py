"""Fused on one side, split on the other: every part moves as if it were a weight of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from prolora.adapters import FullDifference, VectorPatch
from prolora.adapters.dora import DoraAdapter
from prolora.adapters.loha import LohaAdapter
from prolora.adapters.lokr import LokrAdapter
from prolora.algebra.updates import LowRankUpdate
from prolora.models.references import Slice, WeightRef
from prolora.naming.output_names import rename
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .dense_reference import dense_pair, dense_project
from .small_models import delta, file_of, matrix, random_lora, random_weight
from .stacks import by_name, model, real_weight, with_noise
from .strategies import relative_error

WIDTH, ENERGY = 16, 0.8
ANYWAY = TransferSettings("full", threshold=0.0, subspace_energy=ENERGY)
WHOLE = replace(ANYWAY, rank=WIDTH)
# What is fused, its parts, and the rows of each; the last one has fewer keys than queries.
LAYOUTS = {
    "qkv": ("qkv", {"to_q": 16, "to_k": 16, "to_v": 16}),
    "in_proj": ("qkv_proj", {"q_proj": 16, "k_proj": 16, "v_proj": 16}),
    "kv": ("to_kv", {"to_k": 24, "to_v": 24}),
    "gate_up": ("gate_up_proj", {"gate_proj": 40, "up_proj": 40}),
    "w13": ("w13", {"w1": 32, "w3": 32}),
    "grouped": ("qkv", {"q": 32, "k": 8, "v": 8}),
}


def parts_of(layout, seed=0):
    _, rows = LAYOUTS[layout]
    return {n: real_weight((m, WIDTH), seed + i) for i, (n, m) in enumerate(rows.items())}


def drifted(weights, noise=0.5):
    return {name: with_noise(w, noise, 60 + i) for i, (name, w) in enumerate(weights.items())}


def fused(layout, parts):
    return {LAYOUTS[layout][0]: torch.cat(list(parts.values()))}


def at(weights, module="blocks.0.attn"):
    """In a block with another module, which both models have: the similarity is over that one."""
    own = {f"{module}.{name}": weight for name, weight in weights.items()}
    return own | {"blocks.0.proj": real_weight((WIDTH, WIDTH), 40)}


def by_hand(update, source, target):
    """The dense reference for one part."""
    subspaces = dense_pair(matrix(source), matrix(target), ENERGY)
    return dense_project(update, *subspaces, "full")


def moved(adapters, source, target, settings=ANYWAY, **more):
    return transfer_lora(
        file_of(*adapters), model("A", source), model("B", target), settings, **more
    )


def rows_by_part(parts):
    ends = np.cumsum([0, *(len(weight) for weight in parts.values())])
    return {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(parts)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_fused_one_to_its_parts(layout):
    source, target = parts_of(layout), drifted(parts_of(layout))
    whole = fused(layout, source)
    name = f"lora_unet_blocks_0_attn_{LAYOUTS[layout][0]}"
    lora = random_lora(name, tuple(whole[LAYOUTS[layout][0]].shape), alpha=2.0)
    result = moved([lora], at(whole), at(target))
    adapters = by_name(result.adapters)
    assert adapters.keys() == {f"lora_unet_blocks_0_attn_{part}" for part in target}
    for part, rows in rows_by_part(target).items():
        update = delta(lora)[rows]
        wanted = by_hand(update, source[part], target[part])
        assert relative_error(update, wanted) > 0.1
        made = delta(adapters[f"lora_unet_blocks_0_attn_{part}"])
        assert relative_error(made, wanted) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("left_out", [0, 1])
def test_parts_to_a_fused_one(layout, left_out):
    source, target = parts_of(layout), drifted(parts_of(layout))
    trained = dict(list(source.items())[: len(source) - left_out])
    loras = {
        part: random_lora(f"lora_unet_blocks_0_attn_{part}", tuple(w.shape), 2 + i, seed=i)
        for i, (part, w) in enumerate(trained.items())
    }
    result = moved(loras.values(), at(source), at(fused(layout, target)))
    (adapter,) = result.adapters
    assert adapter.name == f"lora_unet_blocks_0_attn_{LAYOUTS[layout][0]}"
    assert adapter.rank == sum(lora.rank for lora in loras.values())
    wanted = np.zeros((sum(map(len, source.values())), WIDTH))
    unmoved = wanted.copy()
    for part, rows in rows_by_part(target).items():
        if part in loras:
            unmoved[rows] = delta(loras[part])
            wanted[rows] = by_hand(delta(loras[part]), source[part], target[part])
    assert relative_error(unmoved, wanted) > 0.1
    assert relative_error(delta(adapter), wanted) < 1e-5
    assert [row.status for row in result.report.rows] == ["moved"] * len(loras)
    if left_out:
        part, rows = list(rows_by_part(target).items())[-1]
        assert not delta(adapter)[rows].any()


def test_copied_parts_are_joined_exactly():
    source = parts_of("qkv")
    loras = [random_lora(f"lora_unet_blocks_0_attn_{p}", tuple(w.shape)) for p, w in source.items()]
    for settings in (ANYWAY, TransferSettings(mode="copy")):
        result = moved(loras, at(source), at(fused("qkv", source)), settings)
        (adapter,) = result.adapters
        both = np.concatenate([delta(lora) for lora in loras])
        assert relative_error(delta(adapter), both) < 1e-6
        assert {row.status for row in result.report.rows} == {"copied"}


def test_a_part_below_the_threshold_stays_behind():
    source = parts_of("qkv")
    target = drifted(source, 0.05) | {"to_k": real_weight((16, WIDTH), 99)}
    loras = [random_lora(f"lora_unet_blocks_0_attn_{p}", tuple(w.shape)) for p, w in source.items()]
    result = moved(loras, at(source), at(fused("qkv", target)), TransferSettings(threshold=0.8))
    assert [row.status for row in result.report.rows] == ["moved", "skipped", "moved"]
    (adapter,) = result.adapters
    assert not delta(adapter)[16:32].any()
    assert delta(adapter)[:16].any()


# A LoRA that addresses a part of a fused weight

PARTS = {
    f"transformer.blocks.{i}.{part}": (f"blocks.{i}.attn.qkv", Slice(0, 16 * n, 16))
    for i in range(3)
    for n, part in enumerate(("to_q", "to_k", "to_v"))
}


def parts_in(blocks):
    return {name: place for name, place in PARTS.items() if int(name.split(".")[2]) < blocks}


def two_depths():
    """Three blocks with a fused qkv, and a child of them without the first."""
    parent = [parts_of("qkv", 10 * i) for i in range(3)]
    child = [drifted(block, 0.3) for block in parent[1:]]
    mlp = [real_weight((32, WIDTH), 500 + i) for i in range(3)]
    return parent, child, mlp


def fused_blocks(blocks, mlp):
    weights = {}
    for i, (parts, own) in enumerate(zip(blocks, mlp, strict=True)):
        weights |= {f"blocks.{i}.attn.qkv": fused("qkv", parts)["qkv"], f"blocks.{i}.mlp.0": own}
    return weights


def test_a_part_to_a_target_of_another_depth():
    parent, child, mlp = two_depths()
    source = model("A", fused_blocks(parent, mlp), PARTS)
    target = model("B", fused_blocks(child, mlp[1:]), parts_in(2))
    loras = [random_lora(f"transformer.blocks.2.{p}", (16, WIDTH)) for p in ("to_q", "to_v")]
    result = transfer_lora(file_of(*loras), source, target, ANYWAY)
    adapters = by_name(result.adapters)
    assert adapters.keys() == {"transformer.blocks.1.to_q", "transformer.blocks.1.to_v"}
    for lora, part in zip(loras, ("to_q", "to_v"), strict=True):
        wanted = by_hand(delta(lora), parent[2][part], child[1][part])
        assert relative_error(delta(lora), wanted) > 0.1
        made = delta(adapters[f"transformer.blocks.1.{part}"])
        assert relative_error(made, wanted) < 1e-5
    assert [row.target_key for row in result.report.rows] == [
        "diffusion_model.blocks.1.attn.qkv.weight[0:16]",
        "diffusion_model.blocks.1.attn.qkv.weight[32:48]",
    ]


def test_a_part_that_the_target_cannot_name_goes_into_the_whole():
    parent, child, mlp = two_depths()
    source = model("A", fused_blocks(parent, mlp), PARTS)
    target = model("B", fused_blocks(child, mlp[1:]))
    loras = [random_lora(f"transformer.blocks.2.{p}", (16, WIDTH)) for p in ("to_q", "to_v")]
    (adapter,) = transfer_lora(file_of(*loras), source, target, ANYWAY).adapters
    wanted = np.zeros((48, WIDTH))
    wanted[:16] = by_hand(delta(loras[0]), parent[2]["to_q"], child[1]["to_q"])
    wanted[32:] = by_hand(delta(loras[1]), parent[2]["to_v"], child[1]["to_v"])
    assert target.resolve(adapter.name).key == "diffusion_model.blocks.1.attn.qkv.weight"
    assert relative_error(delta(adapter), wanted) < 1e-5


def test_a_part_to_a_split_target():
    parent, child, mlp = two_depths()
    source = model("A", fused_blocks(parent, mlp), PARTS)
    split = {f"blocks.{i}.attn.{p}": w for i, parts in enumerate(child) for p, w in parts.items()}
    target = model("B", split | {f"blocks.{i}.mlp.0": mlp[i + 1] for i in range(2)})
    lora = random_lora("transformer.blocks.2.to_k", (16, WIDTH))
    settings = replace(ANYWAY, pairs={"blocks.1": "blocks.2"})
    (adapter,) = transfer_lora(file_of(lora), source, target, settings).adapters
    assert target.key_map[adapter.name].key == "diffusion_model.blocks.1.attn.to_k.weight"
    wanted = by_hand(delta(lora), parent[2]["to_k"], child[1]["to_k"])
    assert relative_error(delta(lora), wanted) > 0.1
    assert relative_error(delta(adapter), wanted) < 1e-5


def test_a_part_that_spans_two_of_the_target():
    source, target = parts_of("qkv"), drifted(parts_of("qkv"))
    both = {"first_two": ("blocks.0.attn.qkv", Slice(0, 0, 32))}
    lora = random_lora("first_two", (32, WIDTH))
    models = model("A", at(fused("qkv", source)), both), model("B", at(target))
    adapters = by_name(transfer_lora(file_of(lora), *models, ANYWAY).adapters)
    assert len(adapters) == 2
    for part, rows in (("to_q", slice(0, 16)), ("to_k", slice(16, 32))):
        wanted = by_hand(delta(lora)[rows], source[part], target[part])
        made = next(delta(a) for name, a in adapters.items() if name.endswith(part))
        assert relative_error(made, wanted) < 1e-5


def test_the_whole_and_a_part_of_it_add_up():
    """ComfyUI adds both, so the split target gets their sum, in one LoRA."""
    source, target = parts_of("qkv"), drifted(parts_of("qkv"))
    name = "diffusion_model.blocks.0.attn.q_only"  # to_q has other names that are like it
    parts = {name: ("blocks.0.attn.qkv", Slice(0, 0, 16))}
    whole = random_lora("lora_unet_blocks_0_attn_qkv", (48, WIDTH), seed=1)
    query = random_lora(name, (16, WIDTH), seed=5)
    models = model("A", at(fused("qkv", source)), parts), model("B", at(target))
    result = transfer_lora(file_of(whole, query), *models, ANYWAY)
    adapters = by_name(result.adapters)
    assert len(adapters) == 3
    sum_of_both = delta(whole)[:16] + delta(query)
    wanted = by_hand(sum_of_both, source["to_q"], target["to_q"])
    (made,) = [delta(a) for name, a in adapters.items() if name.endswith("to_q")]
    assert relative_error(delta(query), wanted) > 0.5
    assert relative_error(made, wanted) < 1e-5


def test_a_whole_beside_a_part_that_the_target_cannot_name():
    """Both end in the whole: one LoRA of it, not two of one name."""
    source, target = parts_of("qkv"), drifted(parts_of("qkv"))
    parts = {"only_q": ("blocks.0.attn.qkv", Slice(0, 0, 16))}
    whole = random_lora("lora_unet_blocks_0_attn_qkv", (48, WIDTH), seed=1)
    query = random_lora("only_q", (16, WIDTH), seed=5)
    models = model("A", at(fused("qkv", source)), parts), model("B", at(fused("qkv", target)))
    (adapter,) = transfer_lora(
        file_of(whole, query), *models, replace(ANYWAY, mode="copy")
    ).adapters
    both = delta(whole)
    both[:16] += delta(query)
    assert relative_error(delta(whole), both) > 0.1
    assert relative_error(delta(adapter), both) < 1e-6
    assert adapter.name == "lora_unet_blocks_0_attn_qkv"


# Other families


@pytest.mark.parametrize("family", ["LoHa", "LoKr"])
@pytest.mark.parametrize("direction", ["split", "fuse"])
def test_families_without_a_low_rank(family, direction):
    source, target = parts_of("qkv"), drifted(parts_of("qkv"))
    whole_source, whole_target = fused("qkv", source), fused("qkv", target)
    if direction == "split":
        adapter = dense_family(family, "lora_unet_blocks_0_attn_qkv", 48)
        result = moved([adapter], at(whole_source), at(target), WHOLE)
        update = adapter.delta(torch.zeros(48, WIDTH)).double().numpy()
        made = np.concatenate([delta(a) for a in result.adapters])
    else:
        names = [f"lora_unet_blocks_0_attn_{part}" for part in source]
        adapters = [dense_family(family, name, 16, i) for i, name in enumerate(names)]
        result = moved(adapters, at(source), at(whole_target), WHOLE)
        deltas = [adapter.delta(torch.zeros(16, WIDTH)) for adapter in adapters]
        update = torch.cat(deltas).double().numpy()
        (joined,) = result.adapters
        made = delta(joined)
    wanted = np.concatenate(
        [by_hand(update[rows], source[p], target[p]) for p, rows in rows_by_part(source).items()]
    )
    assert relative_error(update, wanted) > 0.1
    assert relative_error(made, wanted) < 1e-5


def dense_family(family, name, rows, seed=0):
    if family == "LoKr":
        w1, w2 = random_weight((4, 4), seed), random_weight((rows // 4, 4), seed + 9)
        return LokrAdapter(name, w1, w2, 0.5)
    factors = [
        LowRankUpdate(random_weight((rows, 2), seed + i), random_weight((2, WIDTH), seed + i + 5))
        for i in range(2)
    ]
    return LohaAdapter(name, *factors, 0.5)


def dora(name, rows):
    return DoraAdapter(random_lora(name, (rows, WIDTH)), torch.ones(rows, 1), axis=0)


def control(name, rows):
    return replace(random_lora(name, (rows, WIDTH)), reshape=(rows, WIDTH))


def full(name, rows):
    return FullDifference(name, random_weight((rows, WIDTH)))


@pytest.mark.parametrize(("make", "family"), [(dora, "DoRA"), (control, "LoRA"), (full, "full")])
def test_what_cannot_be_divided_or_joined(make, family):
    parts = parts_of("qkv")
    whole, other = at(fused("qkv", parts)), "blocks.0.mlp.0"
    linear = {other: real_weight((32, WIDTH), 70)}
    lora = random_lora("lora_unet_blocks_0_mlp_0", (32, WIDTH))
    names = ["lora_unet_blocks_0_attn_qkv"], [f"lora_unet_blocks_0_attn_to_{p}" for p in "qkv"]
    for ours, theirs, own in ((whole, at(parts), names[0]), (at(parts), whole, names[1])):
        adapters = [make(name, 48 // len(own)) for name in own]
        result = moved([*adapters, lora], ours | linear, theirs | linear)
        assert [adapter.name for adapter in result.adapters] == [lora.name]
        reasons = {row.reason for row in result.report.rows if row.name in own}
        assert all(f"a {family}" in reason for reason in reasons)
        assert all("cannot be divided or joined" in reason for reason in reasons)
        assert {r.name for r in result.report.rows if r.status == "skipped"} == set(own)


def test_names_that_hold_only_a_part():
    """The target's LoRAs cannot say what lies outside of q, so it is not moved at all."""
    source, target = parts_of("qkv"), drifted(parts_of("qkv"))
    there = model("B", at(fused("qkv", target)))
    part = WeightRef("diffusion_model.blocks.0.attn.qkv.weight", Slice(0, 0, 16))
    names = {name: place for name, place in there.key_map.items() if "qkv" not in name}
    there = replace(there, key_map=names | {"only_q": part})
    loras = [random_lora(f"lora_unet_blocks_0_attn_{p}", (16, WIDTH)) for p in source]
    result = transfer_lora(file_of(*loras), model("A", at(source)), there, ANYWAY)
    assert [(row.name[-4:], row.status) for row in result.report.rows] == [
        ("to_q", "moved"),
        ("to_k", "skipped"),
        ("to_v", "skipped"),
    ]
    assert all("which no name" in r.reason for r in result.report.rows if r.status == "skipped")
    assert [adapter.name for adapter in result.adapters] == ["only_q"]


def test_vectors_follow_their_blocks():
    """Norms and biases of block 2 go to where block 2 went; those of a fused bias are told."""
    parent, child, mlp = two_depths()
    norm = {f"blocks.{i}.norm": real_weight((1, 16), 90 + i)[0] for i in range(3)}
    source = model("A", fused_blocks(parent, mlp) | norm)
    there = {f"blocks.{i}.norm": norm[f"blocks.{i + 1}.norm"] for i in range(2)}
    split = {f"blocks.{i}.attn.{p}": w for i, parts in enumerate(child) for p, w in parts.items()}
    linear = {f"blocks.{i}.mlp.0": mlp[i + 1] for i in range(2)}
    target = model("B", there | split | linear)
    differences = (
        VectorPatch("lora_unet_blocks_2_norm", "diff", torch.arange(16.0)),
        VectorPatch("lora_unet_blocks_0_norm", "diff", torch.ones(16)),
    )
    file = replace(
        file_of(random_lora("lora_unet_blocks_2_mlp_0", (32, WIDTH))), vector_patches=differences
    )
    result = transfer_lora(file, source, target, ANYWAY)
    (difference,) = result.vector_patches
    assert difference.name == "lora_unet_blocks_1_norm"
    assert torch.equal(difference.tensor, torch.arange(16.0))
    (row,) = [row for row in result.report.rows if row.name == "lora_unet_blocks_0_norm.diff"]
    assert row.status == "skipped"
    assert "blocks.0" in row.reason


@pytest.mark.parametrize("naming", ["kohya", "comfyui", "auto", "source"])
def test_the_names_of_a_moved_part(naming):
    """What is written must mean, by the target's key map, the rows that it was made for."""
    parent, child, mlp = two_depths()
    source = model("A", fused_blocks(parent, mlp), PARTS)
    target = model("B", fused_blocks(child, mlp[1:]), parts_in(2))
    loras = [random_lora(f"transformer.blocks.1.{p}", (16, WIDTH)) for p in ("to_q", "to_v")]
    result = transfer_lora(file_of(*loras), source, target, ANYWAY)
    named = rename(result.contents, target.key_map, target.architecture, naming)
    whole = np.zeros((48, WIDTH))
    for adapter in named.adapters:
        place = target.key_map[adapter.name]
        assert place.key == "diffusion_model.blocks.0.attn.qkv.weight"
        start = place.part.start if place.part else 0
        update = delta(adapter)
        whole[start : start + len(update)] += update
    wanted = np.zeros((48, WIDTH))
    wanted[:16] = by_hand(delta(loras[0]), parent[1]["to_q"], child[0]["to_q"])
    wanted[32:] = by_hand(delta(loras[1]), parent[1]["to_v"], child[0]["to_v"])
    assert relative_error(whole, wanted) < 1e-5
