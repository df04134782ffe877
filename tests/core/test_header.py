"""What is made of a LoRA's header, which anybody may have written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolora.provenance.families import FAMILIES, family_of, family_said
from prolora.provenance.header import base_said, describe_header, same_model_name

SHA = "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b"
KOHYA = {
    "ss_sd_model_name": "sd_xl_base_1.0.safetensors",
    "ss_sd_model_hash": "be9edd61",
    "ss_new_sd_model_hash": SHA,
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_output_name": "my_style",
    "ss_tag_frequency": json.dumps({"10_sks cat": {"sks": 40, "cat": 40, "grass": 3}}),
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    "modelspec.title": "My Style",
    "modelspec.author": "somebody",
    "modelspec.license": "CC-BY-4.0",
    "modelspec.trigger_phrase": "sks cat",
    "modelspec.tags": "Style,Animal",
    "modelspec.thumbnail": "data:image/jpeg;base64," + "A" * 100_000,
}
KEYS = (
    *KOHYA,
    *("ss_base_model", "prolora_target", "ot_config", "trained_words", "name"),
    *("lora_adapter_metadata", "modelspec.usage_hint", "modelspec.merged_from"),
)


def said(header, config=None):
    return "\n".join(describe_header(header, config))


def test_kohyas():
    base = base_said(KOHYA)
    assert (base.name, base.old_hash, base.sha256) == (
        *("sd_xl_base_1.0.safetensors", "be9edd61"),
        SHA,
    )
    assert said(KOHYA).splitlines() == [
        "says that it was trained on sd_xl_base_1.0.safetensors (hash 31e35c80fc), base model "
        "version sdxl_base_v1-0, architecture stable-diffusion-xl-v1-base/lora",
        "title: My Style",
        "author: somebody",
        "trigger words: sks cat",
        "most frequent tags: sks, cat, grass",
        "tags: Style,Animal",
        "licence: CC-BY-4.0",
    ]


@pytest.mark.parametrize(
    ("header", "config", "name"),
    [
        ({"ss_base_model": "org/flux"}, {}, "org/flux"),
        ({"ot_config": json.dumps({"base_model_name": "/m/a.safetensors"})}, {}, "a.safetensors"),
        ({}, {"base_model_name_or_path": "org/sdxl"}, "org/sdxl"),
        (
            {"lora_adapter_metadata": json.dumps({"unet.base_model_name_or_path": "org/sdxl"})},
            *({}, "org/sdxl"),
        ),
        ({"prolora_target": "b (1).safetensors (SDXL)"}, {}, "b (1).safetensors"),
        ({"ss_sd_model_name": "None"}, {}, ""),
        ({"ss_new_sd_model_hash": "NOFILE", "ss_sd_model_hash": "IsADirectory"}, {}, ""),
        ({}, {}, ""),
    ],
)
def test_the_base_of_other_writers(header, config, name):
    base = base_said(header, config)
    assert base.name.endswith(name)
    assert bool(base) == bool(name)
    assert (name in said(header, config)) and bool(said(header, config)) == bool(name)


def test_the_hash_of_nothing_tells_nothing():
    """What kohya's trainer writes for a file of less than a megabyte."""
    assert not base_said({"ss_sd_model_hash": "e3b0c442"})


@given(
    st.dictionaries(
        st.sampled_from(KEYS),
        st.one_of(
            st.text(max_size=300),
            st.text("\n\r\t\0\x1b\u202e\u2066\u200f\u2028 a", max_size=50),
            st.recursive(
                st.none() | st.integers() | st.text(max_size=5),
                lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
                max_leaves=8,
            ).map(json.dumps),
        ),
    )
)
def test_whatever_a_stranger_writes_is_shown_on_short_lines(header):
    lines = list(describe_header(header))
    assert len(lines) <= 9
    for line in lines:
        assert line.isprintable()
        assert len(line) < 800
    assert str(base_said(header)).isprintable()


@pytest.mark.parametrize("key", KEYS)
def test_a_text_of_megabytes(key):
    for text in ("x" * 3_000_000, "\u202e\n" * 1_000_000, "[" * 3_000_000, '{"a":' * 1_000_000):
        lines = list(describe_header({**KOHYA, key: text}))
        assert sum(map(len, lines)) < 3000
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("SD_XL_base_1.0.safetensors", "models/sd_xl_base_1.0.ckpt", True),
        ("flux1-dev-fp8.safetensors", "flux1-dev.safetensors", True),
        ("v1-5-pruned-emaonly.safetensors", "v1-5-pruned-emaonly-fp16.safetensors", True),
        ("qwen_image_fp8_e4m3fn_scaled.safetensors", "qwen_image_bf16.safetensors", True),
        ("flux1-dev-Q4_K_S.gguf", "flux1-dev.safetensors", True),
        ("black-forest-labs/FLUX.1-dev", "flux1-dev.safetensors", True),
        ("flux1-dev.safetensors", "flux1-schnell.safetensors", False),
        ("ponyDiffusionV6XL.safetensors", "sd_xl_base_1.0.safetensors", False),
        ("a.safetensors", "b.safetensors", False),
        ("画.safetensors", "絵.safetensors", False),
        ("fp16.safetensors", "fp8.safetensors", False),
        ("", "", False),
    ],
)
def test_names(one, other, same):
    assert same_model_name(one, other) == same_model_name(other, one) == same


# What each tool writes; looked up in its own source.
SAID = {
    "SD1.x": ("sd_v1", "sd_1.5", "stable-diffusion-v1/lora", "stable-diffusion-v1-inpainting"),
    "SD2.x": ("sd_v2_v", "sd_2.1", "stable-diffusion-v2-768-v/lora"),
    "SDXL": ("sdxl_base_v1-0", "sdxl_", "sdxl_1.0", "ssd", "stable-diffusion-xl-v1-base/lora"),
    "SD3": ("sd_3", "stable-diffusion-v3-medium", "stable-diffusion-3-5-large/lora"),
    "Flux": ("flux1", "flux.1", "flux.1_kontext", "flux_kontext", "Flux.1-dev/lora", "flux-1"),
    "Flux.2": ("flux2", "flux2_klein_4b", "flux_2_dev", "Flux.2-klein-9b/lora"),
    "Chroma": ("chroma", "chroma_radiance", "Chroma1/lora"),
    "Lumina 2": ("lumina2", "lumina-2/lora"),
    "Z-Image": ("z_image", "zimage", "Z-Image/lora"),
    "Qwen-Image": ("qwen_image", "Qwen-Image-Edit-Plus/lora"),
    "HunyuanVideo": ("hunyuan_video", "hunyuan-video/lora"),
    "Wan": ("wan", "wan_2.2_14b", "wan2.1/lora"),
    "Anima": ("anima", "anima-preview/lora", "Anima/lora"),
    "PixArt": ("pixart", "pixart-sigma/lora"),
    "AuraFlow": ("auraflow",),
    "LTX-Video": ("ltx2",),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_by_what_tools_write(family):
    for value in (*SAID[family.name], family.version, family.modelspec):
        assert family_said(value) is family, value
    assert family_of(family.name) is family


@pytest.mark.parametrize(
    "value", ["", "krea2", "hunyuan_video_1_5", "framepack", "sd", "fluxx", "x/lora"]
)
def test_a_family_that_is_not_known(value):
    assert family_said(value) is None
    assert family_of("unknown") is family_of("Flux, SD3 or Qwen-Image") is None
