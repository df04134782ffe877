"""The inventories of real models: read, compared with what is known of the models, and the page."""

import math
import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures import inventory, stable_diffusion
from fixtures.inventory import folded, unfolded, write_header_only
from prolora.adapters import AdapterFile, VectorPatch
from prolora.models.layout import PREFIXES
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import SafetensorsWeights
from prolora.naming.output_names import CONVENTIONS, Convention
from prolora.pairing.alignment import align
from prolora.pairing.module_tree import module_tree
from prolora.transfer.resolve import resolve
from prolora.transfer.vectors import plan_vectors
from tests.host.architectures import COLUMNS, PAGE, own_columns, without_a_host

from .pages import tables

KNOWN = {name: inventory.inventory(name) for name in inventory.names()}

# Billions of parameters, as their authors give them (model cards and papers).
PUBLISHED = {
    **{"sd1": 0.860, "sd2": 0.866, "sdxl": 2.567, "ssd-1b": 1.33, "vega": 0.745},
    **{"koala-700m": 0.782, "koala-1b": 1.161, "sd3-medium": 2.0, "sd3.5-medium": 2.5},
    **{"sd3.5-large": 8.1, "flux-dev": 12, "flux-schnell": 12, "chroma": 8.9, "flux2-dev": 32},
    **{"flux2-klein-9b": 9, "flux2-klein-4b": 4, "lumina2": 2.6, "z-image": 6, "qwen-image": 20},
    **{"wan2.1-1.3b": 1.3, "wan2.1-14b-t2v": 14, "wan2.1-14b-i2v": 16, "wan2.2-14b-i2v": 14},
    **{"wan2.2-5b": 5, "hunyuan-video": 13, "cosmos-predict2-2b": 2, "cosmos-predict2-14b": 14},
    **{"cosmos1-7b": 7, "anima": 2, "pixart-alpha": 0.6, "pixart-sigma": 0.6, "auraflow": 6.8},
}
# What else derives the same shapes from the architecture's figures.
DERIVED = {
    "sd1": stable_diffusion.SD15,
    "sdxl": stable_diffusion.SDXL,
    "ssd-1b": stable_diffusion.SSD_1B,
    "vega": stable_diffusion.VEGA,
    "koala-700m": stable_diffusion.KOALA_700M,
    "koala-1b": stable_diffusion.KOALA_1B,
}
# One shape of a published checkpoint each, whose layout is not that of ComfyUI's class.
IN_FILES = {
    "flux-dev": ("double_blocks.0.img_attn.norm.key_norm.scale", (128,)),
    "flux2-dev": ("single_blocks.47.norm.query_norm.scale", (128,)),
    "chroma": ("distilled_guidance_layer.norms.4.scale", (5120,)),
    "hunyuan-video": ("single_blocks.39.modulation.linear.weight", (9216, 3072)),
    "cosmos-predict2-2b": ("net.blocks.27.self_attn.q_proj.weight", (2048, 2048)),
    "auraflow": ("model.double_layers.0.attn.w1q.weight", (3072, 3072)),
    "sd2": ("cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight", (3072, 1024)),
}


# What a checkpoint is called where no host says what it is.
LABELS = {
    **{"sd1": "SD1.x or SD2.x", "sd2": "SD1.x or SD2.x", "sd3": "SD3"},
    **dict.fromkeys(("sdxl", "ssd-1b", "vega", "koala"), "SDXL"),
    **{"flux2": "Flux.2", "flux": "Flux", "chroma": "Chroma", "qwen": "Qwen-Image"},
    **{"lumina": "Lumina 2 or Z-Image", "z-image": "Lumina 2 or Z-Image", "wan": "Wan"},
    **{"hunyuan": "HunyuanVideo", "cosmos": "Cosmos", "anima": "Anima", "pixart": "PixArt"},
    "auraflow": "AuraFlow",
}


@cache
def without_host(name: str) -> Model:
    return without_a_host(KNOWN[name])


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_checkpoint_is_called(name):
    expected = next(LABELS[start] for start in LABELS if name.startswith(start))
    model = without_host(name)
    assert model.architecture == expected
    # Nothing but what every model of the row has, and no other row of the namings than the host's.
    assert naming_row(model.architecture) == naming_row(KNOWN[name].host_class)
    assert model.hint == ""


def naming_row(architecture: str) -> Convention:
    return next(row for row in CONVENTIONS if re.match(row.pattern, architecture))


@pytest.mark.parametrize("name", KNOWN)
def test_the_command_line_has_the_names_of_a_host(name):
    """All of them, for the same weights and parts; `make test-host` tells which is not."""
    assert inventory.names_digest(without_host(name).key_map) == KNOWN[name].names


def test_the_checksum_of_names_tells_any_change():
    names = without_host("flux-dev").key_map
    lone, part = "diffusion_model.img_in", "transformer.transformer_blocks.3.attn.to_k"
    changes = (
        {lone: WeightRef("diffusion_model.txt_in.weight")},
        {part: replace(names[part], part=replace(names[part].part, start=0))},
        {"transformer.norm_out.linear": replace(names["transformer.norm_out.linear"], part=None,
                                                halves_swapped=False)},
        {"another": names[lone]},
    )  # fmt: skip
    digests = {inventory.names_digest({**names, **change}) for change in changes}
    assert len(digests | {inventory.names_digest(names)}) == 1 + len(changes)
    reverse = dict(reversed(list(names.items())))
    assert inventory.names_digest(reverse) == inventory.names_digest(names)


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
@pytest.mark.parametrize("name", KNOWN)
def test_a_diffusion_model_under_any_prefix(name, prefix):
    known = replace(KNOWN[name], prefix=prefix)
    model = without_a_host(known)
    assert (model.architecture, model.key_map) == (
        without_host(name).architecture,
        without_host(name).key_map,
    )


@pytest.mark.parametrize("name", KNOWN)
def test_differences_of_norms_biases_and_parameters_find_their_place(name):
    """Each by the name of its module, or by its own where it has no module."""
    model = without_host(name)
    patches, places = [], []
    for key in model.weights:
        shape = model.weights.shape(key)
        names = [module for module, _ in model.names_of(key)]
        weight = f"{key.removesuffix('bias')}weight"
        if key.endswith(".weight") and len(shape) == 1 and names:
            patches.append(VectorPatch(names[-1], "w_norm", torch.empty(shape, device="meta")))
        elif key.endswith(".bias") and (modules := model.names_of(weight)):
            patches.append(VectorPatch(modules[0][0], "diff_b", torch.empty(shape, device="meta")))
        elif not key.endswith((".weight", ".bias")) and names:
            patches.append(VectorPatch(names[-1], "set_weight", torch.empty(shape, device="meta")))
        else:
            continue
        places.append(key)
    tree = module_tree(model)
    file = AdapterFile("norms.safetensors", (), {}, (), {}, (), tuple(patches))
    _, rows = plan_vectors(resolve(file, model), align(tree, tree, no_similarity), model)
    assert [(row.status, row.source_key) for row in rows] == [("copied", key) for key in places]
    vectors = {key for key in model.weights if len(model.weights.shape(key)) == 1}
    assert not [key for key in vectors - set(places) if key.startswith("diffusion_model.")]


def no_similarity(source, target):
    raise AssertionError(f"{source.path} and {target.path} were compared, though names tell")


def test_every_file_has_a_place_in_the_order():
    files = {path.stem for path in inventory.FOLDER.glob("*.json")}
    assert len(KNOWN) == len(inventory.names()) and files == KNOWN.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", KNOWN)
def test_as_many_parameters_as_published(name):
    assert KNOWN[name].parameters / 1e9 == pytest.approx(PUBLISHED[name], rel=0.1)


@pytest.mark.parametrize("name", DERIVED)
def test_a_unet_as_derived_from_its_figures(name):
    assert KNOWN[name].tensors == stable_diffusion.unet(DERIVED[name])


@pytest.mark.parametrize(
    ("name", "derived"),
    [
        ("sd1", stable_diffusion.sd15_checkpoint()),
        ("sdxl", stable_diffusion.sdxl_checkpoint()),
    ],
)
def test_a_whole_checkpoint_as_derived(name, derived):
    shapes = {k: s for k, s in derived.items() if s and not k.startswith("first_stage_model.")}
    assert inventory.shapes(name) == shapes


@pytest.mark.parametrize("name", IN_FILES)
def test_a_file_has_the_keys_of_the_usual_one(name):
    key, shape = IN_FILES[name]
    assert inventory.shapes(name)[key] == shape


@pytest.mark.parametrize("name", KNOWN)
def test_a_file_without_data(name, tmp_path):
    path, shapes = tmp_path / f"{name}.safetensors", inventory.shapes(name)
    try:
        write_header_only(path, shapes)
    except OSError:
        pytest.skip("this disk has no sparse files of that size")
    weights = SafetensorsWeights(path)
    assert {key: weights.shape(key) for key in weights} == shapes
    smallest = min(shapes, key=lambda key: math.prod(shapes[key]))
    assert not weights.read(smallest).any()


WORDS = st.sampled_from(["blocks", "norm", "to_q", "w", "weight", "img_attn"])
NUMBERS = st.integers(0, 12).map(str)
PARTS = st.one_of(WORDS, NUMBERS, st.builds("{}{}".format, WORDS, NUMBERS))
KEYS = st.lists(PARTS, min_size=1, max_size=4).map(".".join)
SIDES = st.lists(st.integers(1, 2), max_size=2).map(tuple)


@given(st.dictionaries(KEYS, SIDES, max_size=40))
def test_folding_loses_nothing(tensors):
    assert unfolded(folded(tensors)) == tensors
    assert len(folded(tensors)) <= len(tensors)


def test_folding_as_a_reader_has_it():
    blocks = {f"blocks.{i}.norm{j}.weight": (8,) for i in range(12) for j in (1, 2)}
    assert folded({**blocks, "blocks.12.norm1.weight": (4,)}) == {
        "blocks.12.norm1.weight": [4],
        "blocks.{0-11}.norm{1-2}.weight": [8],
    }


def test_the_page_says_what_the_inventories_have():
    (rows,) = tables(PAGE.read_text(encoding="utf-8"))
    told = [{column: row[column] for column in COLUMNS} for row in rows]
    assert told == [own_columns(known) for known in KNOWN.values()]


def test_the_page_would_tell_a_change():
    known = KNOWN["flux-dev"]
    fewer = {k: s for k, s in known.tensors.items() if not k.startswith("single_blocks.37.")}
    before, after = own_columns(known), own_columns(replace(known, tensors=fewer))
    changed = {column for column in COLUMNS if before[column] != after[column]}
    assert changed == {"parameters", "blocks", "modules"}
