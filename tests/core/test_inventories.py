"""The inventories of real models: read, compared with what is known of the models, and the page."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures import inventory, stable_diffusion
from fixtures.inventory import folded, unfolded, write_header_only
from prolora.models.architectures import guess_architecture
from prolora.models.weights import SafetensorsWeights
from tests.host.architectures import COLUMNS, PAGE, own_columns

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
    **{"cosmos1-7b": 7, "pixart-alpha": 0.6, "pixart-sigma": 0.6, "auraflow": 6.8},
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


# What is guessed from the names alone of a LoRA with every module; the first that fits.
GUESSED = {
    **{"sd1": "SD1.x or SD2.x", "sd2": "SD1.x or SD2.x", "sd": "SD3"},
    **dict.fromkeys(("sdxl", "ssd-1b", "vega", "koala"), "SDXL"),
    **{"flux": "Flux", "chroma": "Flux", "qwen": "Qwen-Image", "hunyuan": "HunyuanVideo"},
    **{"lumina": "Lumina 2 / Z-Image", "z-image": "Lumina 2 / Z-Image", "wan": "Wan"},
    **{"cosmos": "Cosmos", "pixart": "PixArt", "auraflow": "AuraFlow"},
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_guessed_from_names(name):
    expected = GUESSED[next(start for start in ("sdxl", *GUESSED) if name.startswith(start))]
    names = [key.removesuffix(".weight") for key in KNOWN[name].modules]
    assert guess_architecture(names) == expected
    assert guess_architecture(inventory.shapes(name)) == expected


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
