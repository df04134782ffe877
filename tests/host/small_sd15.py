"""Three small SD1.5 checkpoints with text encoder and VAE, and a kohya LoCon for them; random.

The names are those in workflows/ and in tests/graphs/, so that the tests queue these graphs as they
are. Which model a name stands for in the world does not matter.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from fixtures.stable_diffusion import Shapes, small_sd15_checkpoint

SOURCE, TARGET = "v1-5-pruned-emaonly-fp16.safetensors", "DreamShaper_8_pruned.safetensors"
DISTILLED = "sdxl_lightning_4step.safetensors"
LORA, OTHER_LORA = "my_style.safetensors", "my_character.safetensors"
RECORDING = "output/recordings/my_style_00001_.recording.safetensors"
# The other names in graphs, and whose file each has.
OTHER_NAMES = {
    "sd_xl_base_1.0.safetensors": SOURCE,
    "SSD-1B-A1111.safetensors": TARGET,
    "v1-5-pruned-emaonly.safetensors": SOURCE,
    "realisticVisionV30.safetensors": TARGET,
    "realisticVisionV60B1_v51HyperVAE.safetensors": DISTILLED,
}
CHECKPOINTS = (SOURCE, TARGET, DISTILLED, *OTHER_NAMES)
RANK, ALPHA = 4, 2.0

# kohya's name -> the checkpoint's. Linear, 1x1 and 3x3 convolutions, text encoder.
LORA_MODULES = {
    "lora_unet_down_blocks_0_attentions_0_proj_in": "input_blocks.1.1.proj_in",
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    ),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (
        "middle_block.1.transformer_blocks.0.attn2.to_k"
    ),
    "lora_unet_up_blocks_0_attentions_2_transformer_blocks_0_ff_net_0_proj": (
        "output_blocks.2.1.transformer_blocks.0.ff.net.0.proj"
    ),
    "lora_unet_up_blocks_0_resnets_0_conv1": "output_blocks.0.0.in_layers.2",
    "lora_unet_down_blocks_0_resnets_1_time_emb_proj": "input_blocks.2.0.emb_layers.1",
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": "encoder.layers.0.self_attn.q_proj",
    "lora_te_text_model_encoder_layers_11_mlp_fc2": "encoder.layers.11.mlp.fc2",
}


def write_small_sd15(models: Path) -> None:
    shapes = small_sd15_checkpoint()
    random = torch.Generator().manual_seed(0)
    source = {key: _weight(key, shape, random) for key, shape in shapes.items()}
    save_file(source, models / "checkpoints" / SOURCE)
    target = {key: _drifted(tensor, random) for key, tensor in source.items()}
    save_file(target, models / "checkpoints" / TARGET)
    save_file(_lora(shapes, random), models / "loras" / LORA)
    (models / "loras" / OTHER_LORA).hardlink_to(models / "loras" / LORA)
    distilled = {key: _drifted(tensor, random) for key, tensor in source.items()}
    save_file(distilled, models / "checkpoints" / DISTILLED)
    for name, of in OTHER_NAMES.items():
        (models / "checkpoints" / name).hardlink_to(models / "checkpoints" / of)


def _weight(key: str, shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    if len(shape) < 2:  # biases are 0, the scales of norms are 1
        return torch.full(shape, float(key.endswith("weight")), dtype=torch.float16)
    return (torch.randn(shape, generator=random) * math.prod(shape[1:]) ** -0.5).half()


def _drifted(weight: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    if weight.ndim < 2:
        return weight.clone()
    noise = torch.randn(weight.shape, generator=random) * weight.float().std()
    return (weight.float() + 0.1 * noise).half()


def lora_shapes(shapes: Shapes) -> Shapes:
    """The weight that each of LORA_MODULES changes: out x in, and a kernel."""
    return {
        name: next(shape for key, shape in shapes.items() if key.endswith(f"{module}.weight"))
        for name, module in LORA_MODULES.items()
    }


def _lora(shapes: Shapes, random: torch.Generator) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, (out, into, *kernel) in lora_shapes(shapes).items():
        up = torch.randn(out, RANK, *(1 for _ in kernel), generator=random)
        down = torch.randn(RANK, into, *kernel, generator=random)
        tensors[f"{name}.lora_up.weight"] = (up / RANK).half()
        tensors[f"{name}.lora_down.weight"] = (down / down[0].numel() ** 0.5).half()
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    return tensors
