"""Tiny language models of transformers, and adapters that PEFT makes for them."""

import copy
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from .small_models import drifted

MODULES = ["q_proj", "v_proj", "down_proj"]


def llama(layers: int = 3, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


def tuned(model: nn.Module) -> nn.Module:
    """The same model with other weights; the norms stay."""
    other = copy.deepcopy(model)
    for seed, parameter in enumerate(other.parameters()):
        if parameter.ndim == 2:
            parameter.data = drifted(parameter.data, 0.6, seed)
    return other


def adapter(model: nn.Module, folder: Path, **choices: object) -> None:
    """A LoRA with random factors, as PEFT saves it."""
    choices = {"r": 4, "lora_alpha": 20, "target_modules": MODULES, **choices}
    wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(**choices))
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) / 5
        if "magnitude" in name:
            parameter.data *= 1 + 0.3 * torch.rand_like(parameter)
    wrapped.save_pretrained(folder)
