"""Two checkpoints and a LoRA that take long enough to be cancelled in the middle."""

from pathlib import Path

import torch
from safetensors.torch import save_file


def write_slow(models: Path) -> None:
    """An SD3-family model twice, slow_a and slow_b, and a LoRA of 24 modules for it, slow."""
    depth, width = 8, 512
    random = torch.Generator().manual_seed(0)
    prefix = "model.diffusion_model."
    tensors = {
        f"{prefix}x_embedder.proj.weight": (width, 16, 2, 2),
        f"{prefix}context_embedder.weight": (width, 64),
        f"{prefix}t_embedder.mlp.0.weight": (width, 256),
        f"{prefix}t_embedder.mlp.2.weight": (width, width),
        f"{prefix}y_embedder.mlp.0.weight": (width, 64),
        f"{prefix}y_embedder.mlp.2.weight": (width, width),
        f"{prefix}final_layer.linear.weight": (64, width),
        f"{prefix}final_layer.adaLN_modulation.1.weight": (2 * width, width),
    }
    lora = {}
    for block in range(depth):
        tensors[f"{prefix}joint_blocks.{block}.context_block.attn.qkv.weight"] = (3 * width, width)
        for layer, rows, columns in (("attn.qkv", 3, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            name = f"joint_blocks.{block}.x_block.{layer}"
            tensors[f"{prefix}{name}.weight"] = (rows * width, columns * width)
            module = "lora_unet_" + name.replace(".", "_")
            lora[f"{module}.lora_up.weight"] = torch.ones(rows * width, 4)
            lora[f"{module}.lora_down.weight"] = torch.ones(4, columns * width)
    for name in ("slow_a", "slow_b"):
        weights = {key: torch.randn(shape, generator=random) for key, shape in tensors.items()}
        save_file(weights, models / "checkpoints" / f"{name}.safetensors")
    save_file(lora, models / "loras" / "slow.safetensors")
