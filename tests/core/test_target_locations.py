"""Where a module goes, and its name there: the one that is closest to the name in the source."""

import re
from dataclasses import replace

import pytest
import torch

from prolora.models.model import Model
from prolora.models.module_names import canonical_name
from prolora.models.references import Slice, WeightRef
from prolora.models.weights import StateDictWeights
from prolora.naming.output_names import NAMINGS, rename
from prolora.pairing.alignment import align
from prolora.pairing.module_tree import module_tree
from prolora.pairing.target_locations import target_locations
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .host_names import WIDTH, flux, rows_of, swap_halves, text_encoders, wan, z_image
from .small_models import drifted, file_of, random_lora, random_weight
from .stacks import model, real_weight, unread

MAPS = {"Flux": flux, "ZImage": z_image, "WAN21": wan}
STAGES = ("double_blocks", "single_blocks", "layers", "blocks")
LISTS = "|".join((*STAGES, "transformer_blocks", "single_transformer_blocks"))


def in_block(name, number):
    flat = re.sub(r"_(?=(double|single|transformer|layers|blocks))", "_ ", name)
    return re.sub(rf"({LISTS})([._])0(?=[._])", rf"\g<1>\g<2>{number}", flat, count=1).replace(
        "_ ", "_"
    )


def deep(names, depth):
    """A key map of one block as one of several."""
    return {
        in_block(name, i): replace(ref, key=in_block(ref.key, i))
        for i in range(depth)
        for name, ref in names.items()
    }


def model_of_map(name, architecture, names, seed=0, real=False):
    make = real_weight if real else lambda shape, seed: torch.empty(shape, device="meta")
    weights = {
        key: make((rows_of(names, key), WIDTH), seed + i)
        for i, key in enumerate(sorted({ref.key for ref in names.values()}))
    }
    return Model(name, architecture, StateDictWeights(weights), names)


def same_place(one, other):
    return (one.key, one.part, one.halves_swapped) == (
        other.key,
        other.part,
        other.halves_swapped,
    )


@pytest.mark.parametrize("architecture", MAPS)
def test_the_name_in_another_block(architecture):
    """Block 0 of the target takes block 2 of the source: every name is one of block 0."""
    names = MAPS[architecture]()
    source = model_of_map("A", architecture, deep(names, 3))
    target = model_of_map("B", architecture, names)
    trees = module_tree(source), module_tree(target)
    lists = [stage for stage in STAGES if stage in trees[1].children]
    given = {f"{stage}.0": f"{stage}.2" for stage in lists}
    alignment = align(*trees, unread, given)
    assert lists
    in_blocks = 0
    for name, ref in names.items():
        (found,) = target_locations(
            in_block(name, 2), source.resolve(in_block(name, 2)), source, target, alignment
        )
        assert found.name == name
        assert same_place(found.place, ref)
        assert found.rows is None
        in_blocks += in_block(name, 2) != name
        if in_block(name, 2) != name:
            assert target_locations(name, source.resolve(name), source, target, alignment) == ()
    assert in_blocks > 20


@pytest.mark.parametrize("architecture", MAPS)
@pytest.mark.parametrize("wrapped", ["base_model.model.{}", "pipe.dit.{}", "transformer.{}"])
def test_spellings_that_no_key_map_has(architecture, wrapped):
    names = MAPS[architecture]()
    source = model_of_map("A", architecture, deep(names, 3))
    target = model_of_map("B", architecture, names)
    trees = module_tree(source), module_tree(target)
    given = {f"{s}.0": f"{s}.2" for s in STAGES if s in trees[1].children}
    alignment = align(*trees, unread, given)
    bare = [name.removeprefix("diffusion_model.") for name in names if "diffusion_model." in name]
    tried = 0
    for name in bare:
        own_name = wrapped.format(in_block(name, 2))
        if source.resolve(own_name) is None:
            continue
        tried += 1
        (found,) = target_locations(own_name, source.resolve(own_name), source, target, alignment)
        assert same_place(target.key_map.get(found.name, target.resolve(found.name)), found.place)
        assert same_place(found.place, names[f"diffusion_model.{name}"])
    assert tried


@pytest.mark.parametrize("naming", ["auto", "source", *NAMINGS])
@pytest.mark.parametrize("architecture", MAPS)
def test_written_names_mean_the_right_weights(architecture, naming):
    """A whole transfer to another block, then every naming: keys of the map, the rows they mean."""
    names = MAPS[architecture]()
    source = model_of_map("A", architecture, deep(names, 3), real=True)
    target = model_of_map("B", architecture, names, seed=7, real=True)
    lists = [stage for stage in STAGES if stage in module_tree(target).children]
    pairs = {f"{stage}.0": f"{stage}.2" for stage in lists}
    start = {"Flux": "transformer.", "ZImage": "transformer.", "WAN21": "diffusion_model."}[
        architecture
    ]
    chosen = [n for n in names if n.startswith(start) and in_block(n, 2) != n]
    chosen = [n for n in chosen if "to_qkv_mlp" not in n and not n.endswith("attn.to_out")]
    loras = {
        n: random_lora(in_block(n, 2), (target.shape(names[n])[0], WIDTH), 2, seed=i)
        for i, n in enumerate(chosen)
    }
    settings = TransferSettings(mode="copy", pairs=pairs)
    result = transfer_lora(file_of(*loras.values()), source, target, settings)
    assert {adapter.name for adapter in result.adapters} == set(chosen)
    renamed = rename(result.contents, names, architecture, naming)
    assert len({adapter.name for adapter in renamed.adapters}) == len(renamed.adapters)
    found, wanted = {}, {}
    for adapters, into in ((renamed.adapters, found), (loras.values(), wanted)):
        for adapter in adapters:
            own = in_block(adapter.name.replace("_2_", "_0_").replace(".2.", ".0."), 0)
            own = (
                next(n for n in chosen if in_block(n, 2) == adapter.name) if into is wanted else own
            )
            place = names.get(own) or target.resolve(own)
            assert place is not None, own
            rows = into.setdefault(place.key, torch.zeros(rows_of(names, place.key), WIDTH))
            update = adapter.up @ adapter.down * adapter.scale
            update = place.reordered(update)
            first = place.part.start if place.part is not None else 0
            rows[first : first + len(update)] += update
    assert found.keys() == wanted.keys()
    for key, rows in wanted.items():
        assert torch.allclose(found[key], rows, atol=1e-4), key


def test_rows_in_another_order():
    """A name means one thing, whatever order the rows are stored in on either side."""
    key = "diffusion_model.final_layer.adaLN_modulation.1.weight"
    ldm = {"norm_out.linear": WeightRef(key, None, halves_swapped=True), "final": WeightRef(key)}
    diffusers = {"norm_out.linear": WeightRef(key)}
    weight = real_weight((16, 8), 1)
    models = {
        "ldm": Model("ldm", "Flux", StateDictWeights({key: swap_halves(weight)}), ldm),
        "diffusers": Model("diffusers", "Flux", StateDictWeights({key: weight}), diffusers),
    }
    lora = random_lora("norm_out.linear", (16, 8))
    for ours, theirs in (("ldm", "diffusers"), ("diffusers", "ldm"), ("ldm", "ldm")):
        result = transfer_lora(file_of(lora), models[ours], models[theirs], TransferSettings())
        (adapter,) = result.adapters
        assert (adapter.name, result.report.rows[0].status) == ("norm_out.linear", "copied")


def test_a_part_of_a_weight_of_another_width():
    """The part of the same name, else one of as many equal parts; never a guess."""
    part = {"q": ("attn.qkv", Slice(0, 0, 8)), "odd": ("attn.qkv", Slice(0, 0, 5))}
    source = model("A", {"attn.qkv": random_weight((24, 8))}, part)
    target = model("B", {"attn.qkv": random_weight((48, 16))}, {"q": ("attn.qkv", Slice(0, 0, 16))})
    found = align(module_tree(source), module_tree(target), unread)
    (q,) = target_locations("q", source.resolve("q"), source, target, found)
    assert (q.place.part, q.name) == (Slice(0, 0, 16), "q")
    assert target_locations("odd", source.resolve("odd"), source, target, found) == ()
    unnamed = model("B", {"attn.qkv": random_weight((48, 16))})
    (q,) = target_locations("q", source.resolve("q"), source, unnamed, found)
    assert (q.place.part, q.name) == (Slice(0, 0, 16), "")
    grouped = {"q": ("attn.qkv", Slice(0, 0, 32))}  # with fewer heads for k and v
    fewer = model("B", {"attn.qkv": random_weight((48, 16))}, grouped)
    (q,) = target_locations("q", source.resolve("q"), source, fewer, found)
    assert (q.place.part, q.name) == (Slice(0, 0, 32), "q")
    uneven = model("B", {"attn.qkv": random_weight((40, 16))})
    found = align(module_tree(source), module_tree(uneven), unread)
    assert target_locations("q", source.resolve("q"), source, uneven, found) == ()


def test_what_no_tree_links_goes_by_its_name():
    """A text encoder lies elsewhere in a checkpoint than in a loaded model."""
    fc1 = "text_model.encoder.layers.0.mlp.fc1"
    lora_name = f"lora_te1_{fc1.replace('.', '_')}"
    weight = random_weight((16, 8))
    key = f"conditioner.embedders.0.transformer.{fc1}.weight"
    source = Model("A", "SDXL", StateDictWeights({key: weight}), {lora_name: WeightRef(key)})
    names = text_encoders()
    there = names[lora_name].key
    tensors = {ref.key: drifted(weight) for ref in names.values()}
    target = Model("B", "SDXL", StateDictWeights(tensors), names)
    found = align(module_tree(source), module_tree(target), unread)
    assert there not in found.source_of_target
    (place,) = target_locations(lora_name, source.resolve(lora_name), source, target, found)
    assert (place.place.key, place.name) == (there, lora_name)


def test_a_name_is_no_way_into_a_block_of_others():
    """The modules of a pair of blocks that only names link stay in that pair."""

    def named(blocks, inner):
        return {
            f"blocks.{i}.{m}": random_weight((8, 8), i) for i in range(blocks) for m in ("q", inner)
        }

    def flat(name, weights):
        made = model(name, weights)
        names = {n.replace("_out_0", "_out"): ref for n, ref in made.key_map.items()}
        return replace(made, key_map=names)

    source, target = flat("A", named(3, "out.0")), flat("B", named(3, "out"))
    name = "lora_unet_blocks_1_out"
    trees = module_tree(source), module_tree(target)
    (place,) = target_locations(name, source.resolve(name), source, target, align(*trees, unread))
    assert place.place.key == "diffusion_model.blocks.1.out.weight"
    given = {"blocks.0": "blocks.1", "blocks.1": "blocks.0"}
    assert (
        target_locations(name, source.resolve(name), source, target, align(*trees, unread, given))
        == ()
    )


def test_the_helper_that_numbers_names():
    assert in_block("transformer.transformer_blocks.0.ff.net.0.proj", 2) == (
        "transformer.transformer_blocks.2.ff.net.0.proj"
    )
    assert (
        in_block("lora_unet_double_blocks_0_img_mlp_0", 2) == "lora_unet_double_blocks_2_img_mlp_0"
    )
    assert in_block("img_in", 2) == "img_in"
    assert canonical_name("diffusion_model.x") == canonical_name("x")
