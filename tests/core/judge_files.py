"""Weights of judges at tiny sizes with random values, in files as their publishers write them.

CLIP and DINOv2 are saved by transformers; the tower of CSD is transformers' too, renamed to
OpenAI's names, so that what reads it is compared with a library that it does not use.
"""

import json
from pathlib import Path

import torch
import torchvision
from torch import nn
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizerFast,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)

SIDE = 32
START, END = "<|startoftext|>", "<|endoftext|>"
VISION = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
WORDS = [*(letter + end for end in ("", "</w>") for letter in "abcdefghijklmnopqrstuvwxyz")]


def randomise(network: nn.Module, std: float = 0.3) -> None:
    """Values that tell one picture from another; a fresh network hardly does."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 or name.endswith("class_embedding"):
            nn.init.normal_(parameter, std=std, generator=generator)


def write_clip(folder: Path) -> Path:
    folder.mkdir(parents=True)
    words = [*WORDS, START, END]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(
        folder
    )
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": len(words),
        "max_position_embeddings": 16,
        "bos_token_id": len(words) - 2,
        "eos_token_id": len(words) - 1,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24))
    randomise(model)
    model.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    CLIPImageProcessor(**sizes).save_pretrained(folder)
    return folder


def write_dino(folder: Path) -> Path:
    folder.mkdir(parents=True)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = Dinov2Model(Dinov2Config(**sizes, image_size=28, patch_size=14))
    randomise(model)
    model.save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}
    ).save_pretrained(folder)
    return folder


def style_tower(**more: object) -> CLIPVisionModelWithProjection:
    """The tower of CSD as transformers has it; the style head is its projection."""
    tower = CLIPVisionModelWithProjection(
        CLIPVisionConfig(**{**VISION, "projection_dim": 24, **more})
    )
    randomise(tower)
    return tower.eval()


RENAMED = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.": "conv1.",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.": "ln_pre.",
    "post_layernorm.": "ln_post.",
    "encoder.layers.": "transformer.resblocks.",
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}


def openai_names(tower: CLIPVisionModelWithProjection) -> dict[str, torch.Tensor]:
    """The weights by OpenAI's names: q, k and v are one."""
    found: dict[str, torch.Tensor] = {}
    weights = tower.vision_model.state_dict()
    for name, tensor in weights.items():
        for theirs, ours in RENAMED.items():
            name = name.replace(theirs, ours)
        if ".self_attn." not in name and "position_ids" not in name:
            found[name] = tensor
    for i in range(VISION["num_hidden_layers"]):
        for kind in ("weight", "bias"):
            place = f"encoder.layers.{i}.self_attn."
            parts = [weights[f"{place}{letter}_proj.{kind}"] for letter in "qkv"]
            found[f"transformer.resblocks.{i}.attn.in_proj_{kind}"] = torch.cat(parts)
    return found


def csd_tensors(tower: CLIPVisionModelWithProjection) -> dict[str, torch.Tensor]:
    """As the code of CSD names them."""
    head = tower.visual_projection.weight.detach().T.contiguous()
    backbone = {f"backbone.{name}": tensor for name, tensor in openai_names(tower).items()}
    return {**backbone, "last_layer_style": head, "last_layer_content": torch.zeros_like(head)}


def write_csd(path: Path) -> Path:
    """As CSD's training saves it: of several GPUs, among other things."""
    tensors = {f"module.{name}": t for name, t in csd_tensors(style_tower()).items()}
    torch.save({"model_state_dict": tensors, "iter": 3}, path)
    return path


def preference_network(width: int = 128, head_width: int = 64) -> nn.Module:
    """What HPSv2 is, a CLIP of open_clip; ViT-H/14 has a width of 1280 in heads of 80."""
    import open_clip

    torch.manual_seed(0)  # of the biases
    network = open_clip.CLIP(
        embed_dim=24,
        vision_cfg=open_clip.CLIPVisionCfg(
            layers=2, width=width, head_width=head_width, patch_size=8, image_size=SIDE
        ),
        text_cfg=open_clip.CLIPTextCfg(context_length=12, width=64, heads=1, layers=3),
    )
    randomise(network)
    return network.eval()


def write_hps(path: Path) -> Path:
    torch.save({"epoch": 1, "state_dict": preference_network().state_dict()}, path)
    return path


def write_trunk(path: Path) -> Path:
    """AlexNet as torchvision publishes it."""
    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path
