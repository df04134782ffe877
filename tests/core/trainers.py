"""What trainers save and what it does to a weight, restated from their code at a named commit.

For tools that no package index has. The formulas and the keys are theirs, nothing here is read with
our own code. `CODE` says where each was read; docs/formats.md names the same commits.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

# Tool -> repository, the commit or the release that was read, and the files of it.
CODE = {
    "kohya's sd-scripts": (
        "kohya-ss/sd-scripts",
        "48d368fa557731ad0488c07304dfeba8c07910eb",
        "networks/lora.py, oft.py, oft_flux.py",
    ),
    "musubi-tuner": (
        "kohya-ss/musubi-tuner",
        "30c658c4f4b0bf05038b3346eff9670259b10fc7",
        "src/musubi_tuner/networks/lora.py, loha.py, lokr.py",
    ),
    "AkaneTendo25's musubi-tuner": (
        "AkaneTendo25/musubi-tuner",
        "e0e570f43104c9abbbc3758d81c54cd45c47f11b",
        "src/musubi_tuner/networks/lora.py, lora_oft.py, lokr.py",
    ),
    "OneTrainer": (
        "Nerogar/OneTrainer",
        "23df3832e8f213d64c337e39f9365ba46e99fed0",
        "modules/module/LoRAModule.py, oft_utils.py, modules/util/convert_lora_util.py",
    ),
    "OneTrainer in 2025": (
        "Nerogar/OneTrainer",
        "8fd97dcc32e8334e5d46b912fbfa2a02f19b34eb",
        "modules/util/convert/lora/convert_flux_lora.py, its OMI format",
    ),
    "ai-toolkit": (
        "ostris/ai-toolkit",
        "27a03a91f23eb1b757d5ec2e80ee3e129cfcc350",
        "toolkit/lora_special.py, network_mixins.py, models/lokr.py, models/DoRA.py",
    ),
    "SimpleTuner": (
        "bghira/SimpleTuner",
        "bc8e6ab7738ce457a2ed8eb2d26cadd91c6442cb",
        "simpletuner/helpers/training/save_hooks.py, lora_format.py",
    ),
    "diffusion-pipe": (
        "tdrussell/diffusion-pipe",
        "8f83dbf25d03219df705570ec03e62be04bc402f",
        "utils/saver.py, models/base.py",
    ),
    "DiffSynth": (
        "modelscope/DiffSynth-Studio",
        "fed7b18fac2ed4cb802796eec91970e7659bccde",
        "diffsynth/diffusion/training_module.py, logger.py",
    ),
    "ComfyUI": (
        "comfyanonymous/ComfyUI",
        "0.33.0",
        "comfy_extras/nodes_train.py, nodes_lora_extract.py, comfy/weight_adapter, lora_convert.py",
    ),
    "diffusers before 0.20": (
        "huggingface/diffusers",
        "de9c72d58c3eb4bcd50901d0c23c7c46f0cec29b",  # v0.19.3
        "src/diffusers/models/lora.py, attention_processor.py, loaders.py",
    ),
    "Mochi's trainer": (
        "genmoai/mochi",
        "0c86aebf386e6622deadfb47ff1996878cefc0ac",
        "src/genmo/mochi_preview/dit/joint_model/lora.py, demos/fine_tuner/train.py",
    ),
    "drafts of OneTrainer's": (
        "Koratahiu/ComfyUI-OFTv2",
        "29bdbae896f9ed9cb8324157d95a74b83a6af300",  # dora_multiplier: 33a1411d
        "node/oftv2_loader.py, by the author of the drafts (pull requests 1335, 1492, 1512)",
    ),
    "LyCORIS in 2023": (
        "KohakuBlueleaf/LyCORIS",
        "c143299d9b42def222742812c50157cb1bbacd66",  # R; 701dd820 of a month before: R - I
        "lycoris/modules/diag_oft.py",
    ),
    "LightX2V": (
        "ModelTC/LightX2V",
        "f8aee98b5462cca8d7288888146ebd95592bf266",
        "tools/extract/lora_extractor.py",
    ),
}


# What a module is called by the authors of a UNet or a transformer, and by the diffusers library.
UNET = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
DIFFUSERS_UNET = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
DIT, DIFFUSERS_DIT = "blocks.0.self_attn.q", "blocks.0.attn1.to_q"


def flattened(prefix: str, *modules: str) -> set[str]:
    return {f"{prefix}_{module.replace('.', '_')}" for module in modules}


# Tool -> what it calls these modules; of the libraries, what test_writers.py finds in their files.
NAMES = {
    "kohya's sd-scripts": flattened("lora_unet", UNET, DIFFUSERS_UNET),
    "OneTrainer": {
        *flattened("lora_unet", UNET, DIFFUSERS_UNET),  # KOHYA, LEGACY
        *flattened("lora_transformer", DIFFUSERS_DIT),  # LEGACY
        *(
            f"transformer.{DIFFUSERS_DIT}",
            f"diffusion_model.{DIT}",
            DIT,
        ),  # DIFFUSERS, COMFY, ORIGINAL
    },
    "musubi-tuner": flattened("lora_unet", DIT),
    "ai-toolkit": {
        *(f"diffusion_model.{DIT}", f"transformer.{DIFFUSERS_DIT}"),
        *flattened("lora_unet", DIFFUSERS_UNET),
        *flattened("lycoris", DIFFUSERS_DIT),  # old_lokr_format
    },
    "LyCORIS": flattened("lycoris", DIT),
    "PEFT": {f"base_model.model.{DIT}"},
    "diffusers": {f"unet.{DIFFUSERS_UNET}", f"transformer.{DIFFUSERS_DIT}"},
    "diffusers before 0.20": {f"unet.{DIFFUSERS_UNET.replace('.to_q', '.processor.to_q')}"},
    "SimpleTuner": {
        f"transformer.{DIFFUSERS_DIT}",
        f"transformer.base_model.model.{DIFFUSERS_DIT}",  # where it wraps the model
        f"diffusion_model.{DIFFUSERS_DIT}",  # lora_format comfyui
        *flattened("lora_unet", DIFFUSERS_UNET),
    },
    "diffusion-pipe": {
        *(f"diffusion_model.{DIT}", f"transformer.{DIFFUSERS_DIT}"),
        *flattened("lora_unet", DIFFUSERS_UNET),
    },
    "DiffSynth": {DIT, f"pipe.dit.{DIT}"},
    "ComfyUI": {f"diffusion_model.{DIT}"},
}
# Tools -> how the names of their text encoders' modules begin.
TEXT_ENCODERS = {
    ("kohya's sd-scripts", "OneTrainer"): {"lora_te_", "lora_te1_", "lora_te2_", "lora_te3_"},
    ("diffusers", "OneTrainer"): {"text_encoder.", "text_encoder_2.", "text_encoder_3."},
    ("OneTrainer", "ComfyUI"): {"text_encoders.clip_l.transformer."},
    ("OneTrainer in 2025",): {"clip_l."},
}


@dataclass(frozen=True)
class Case:
    """One module as a tool saves it.

    Attributes:
        tensors: by their whole keys.
        weight: the weight that it was trained on.
        changed: what the weight becomes, m x n, float64; None where it stays or is left out.
        added: role -> what is added to, or takes the place of, what has no subspaces.
    """

    tensors: Mapping[str, Tensor]
    weight: Tensor
    changed: np.ndarray | None
    added: Mapping[str, Tensor] = field(default_factory=dict)


Cases = Callable[[], Iterator[Case]]
# Row of docs/formats.md -> tool -> what it saves.
CASES: dict[str, dict[str, Cases]] = defaultdict(dict)


def saved_by(tool: str, *rows: str) -> Callable[[Cases], Cases]:
    """Enters a function under rows of docs/formats.md."""
    assert tool in CODE

    def enter(cases: Cases) -> Cases:
        for row in rows:
            assert tool not in CASES[row], (row, tool)
            CASES[row][tool] = cases
        return cases

    return enter


LINEAR, CONV = (24, 16), (12, 6, 3, 3)


def normal(*shape: int, std: float = 0.3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(hash((shape, seed)) % 2**31)
    return std * torch.randn(shape, generator=generator)


def flat(tensor: Tensor) -> np.ndarray:
    return tensor.double().flatten(1).numpy()


def named(module: str, joint: str, tensors: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
    return {
        f"{module}{joint}{part}": t if isinstance(t, Tensor) else torch.tensor(t)
        for part, t in tensors.items()
    }
