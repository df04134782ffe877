"""LoRAs made, given random values, fused and saved by the diffusers library."""

import copy
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel, WanTransformer3DModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin, WanLoraLoaderMixin
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from .libraries import Written, flat, randomise

FILE = "pytorch_lora_weights.safetensors"
Tensors = Mapping[str, torch.Tensor]


@cache
def unet() -> nn.Module:
    return UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


@cache
def transformer() -> nn.Module:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=8,
        ffn_dim=16,
        num_layers=1,
    )


@cache
def text_encoder() -> nn.Module:
    config = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=50,
        projection_dim=16,
    )
    return CLIPTextModel(config)


# Component -> the model, the class that saves, and what the training scripts do to the tensors.
COMPONENTS: dict[str, tuple[Callable[[], nn.Module], type, Callable[[Tensors], Tensors]]] = {
    "unet": (unet, StableDiffusionLoraLoaderMixin, dict),
    "unet, as its scripts": (unet, StableDiffusionLoraLoaderMixin, convert_state_dict_to_diffusers),
    "transformer": (transformer, WanLoraLoaderMixin, dict),
    "text_encoder": (
        *(text_encoder, StableDiffusionLoraLoaderMixin, convert_state_dict_to_diffusers),
    ),
}


def by_diffusers(folder: Path, component: str, config: LoraConfig, metadata: bool) -> Written:
    """As diffusers saves it, with the updates that PEFT makes inside of it.

    Args:
        component: a key of COMPONENTS.
        metadata: whether the header says what the adapter is.
    """
    torch.manual_seed(0)
    make, mixin, converted = COMPONENTS[component]
    kind, base = component.partition(",")[0], make()
    model = copy.deepcopy(base)
    model.add_adapter(config)
    randomise(model, 0.3)
    told = _collate_lora_metadata({kind: model}) if metadata else {}
    layers = converted(get_peft_model_state_dict(model))
    mixin.save_lora_weights(folder, **{f"{kind}_lora_layers": layers}, **told)
    weights, updates = {}, {}
    for name, layer in model.named_modules():
        if hasattr(layer, "base_layer"):
            weight = base.get_submodule(name).weight.detach()
            layer.merge()
            weights[f"{kind}.{name}"] = weight
            updates[f"{kind}.{name}"] = flat(layer.base_layer.weight - weight)
    return Written(folder / FILE, weights, updates)
