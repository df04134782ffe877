"""Families of models, and what the tools write for them into a header.

`ss_base_model_version` as kohya's sd-scripts (48d368f: `sd_v1`, `sdxl_base_v1-0`, `flux1`),
musubi-tuner (30c658c), ai-toolkit (27a03a9: `sd_1.5`, `sdxl_1.0`, `flux.1`) and OneTrainer
(23df383: `sdxl_`) have it; `modelspec.architecture` as they, SimpleTuner (bc8e6ab) and Stability's
ModelSpec 1.0.1 have it, without the `/lora` after it.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Models for which the tools write the same.

    Attributes:
        name: for people.
        classes: pattern of the names that ComfyUI's configurations have, and the core's own.
        says: pattern of both keys' values, in lower case.
        version, modelspec: what to write; "" where no tool does.
    """

    name: str
    classes: str
    says: str
    version: str = ""
    modelspec: str = ""


FAMILIES = (
    Family(
        "SD1.x",
        r"SD15\w*|SD1\.x",
        r"sd_v1|sd_v1_v|sd_1\.\d|stable-diffusion-v1\S*",
        *("sd_v1", "stable-diffusion-v1"),
    ),
    Family(
        "SD2.x",
        r"SD2[01]\w*|LotusD|SD2\.x",
        r"sd_v2|sd_v2_v|sd_2\.\d|stable-diffusion-v2\S*",
        *("sd_v2", "stable-diffusion-v2-512"),
    ),
    Family(
        "SDXL",
        r"SDXL|SDXL_instructpix2pix|SSD1B|Segmind_Vega|KOALA_\w+",
        r"sdxl\S*|ssd|vega|stable-diffusion-xl-\S+",
        *("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    ),
    Family(
        "SD3",
        r"SD3",
        r"sd_?3(\.5)?\S*|stable-diffusion-v?3\S*",
        *("sd3", "stable-diffusion-v3-medium"),
    ),
    Family(
        "Flux",
        r"Flux|FluxInpaint|FluxSchnell",
        r"flux\.?-?1?([-_.](?!2)\S*)?|flux_kontext",
        *("flux1", "flux-1-dev"),
    ),
    Family("Flux.2", r"Flux2|Flux\.2", r"flux[._]?2\S*", "flux2", "Flux.2-dev"),
    Family("Chroma", r"Chroma\w*", r"chroma\S*", "chroma", "chroma"),
    Family("Lumina 2", r"Lumina2|Lumina 2", r"lumina-?2", "lumina2", "lumina-2"),
    Family("Z-Image", r"ZImage\w*|Z-Image", r"z[-_]?image\S*", "z_image", "Z-Image"),
    Family("Qwen-Image", r"QwenImage|Qwen-Image", r"qwen\S*", "qwen_image", "Qwen-Image"),
    Family(
        "HunyuanVideo",
        r"HunyuanVideo(I2V|Skyreels\w*)?",
        r"hunyuan[-_]video",
        *("hunyuan_video", "hunyuan-video"),
    ),
    Family("Wan", r"WAN\w*|Wan", r"wan\S*", "wan", "wan2.1"),
    Family("Anima", r"Anima", r"anima\S*", "anima", "anima-preview"),
    Family("PixArt", r"PixArt\w*", r"pixart\S*", "pixart", "pixart-sigma"),
    Family("AuraFlow", r"AuraFlow", r"auraflow", "auraflow", "auraflow"),
    Family("LTX-Video", r"LTX\w*|LTX-Video", r"ltx\S*", "ltx2", "ltx2"),
)


def family_said(value: str) -> Family | None:
    """The family that a header's value names; None if it names none that is known here."""
    base = value.strip().lower().partition("/")[0]
    return next((family for family in FAMILIES if re.fullmatch(family.says, base)), None)


def family_of(architecture: str) -> Family | None:
    """The family of a Model's architecture; None if it is none of these, or may be several."""
    return next((row for row in FAMILIES if re.fullmatch(row.classes, architecture)), None)
