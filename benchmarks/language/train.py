"""Trains what is moved and where to: the fine-tuned model, and LoRAs of the task by PEFT."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM

from .measures import Lower
from .upper import FIRST, in_bfloat16, loss_of

ROW = 64  # tokens of plain text that the fine-tuning sees at once
RANK = 8
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")


def open_model(folder: Path) -> LlamaForCausalLM:
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def fine_tune(source: Path, folder: Path, rows: torch.Tensor, steps: int, rate: float) -> None:
    """All projections of all blocks learn a text; the embedding and the norms stay as they are.

    Args:
        rows: of the text, N x ROW.
    """
    model = open_model(source).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "_proj." in name
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    batches = (rows[some] for some in order.split(8))
    losses = (model(input_ids=batch, labels=batch).loss for batch in batches)
    _learn(model, losses, steps, rate, "fine-tuning")
    _kept(folder, model)


def train_lora(
    base: LlamaForCausalLM, folder: Path, learned: Lower, seed: int, rate: float = 2e-3
) -> None:
    """A LoRA of the task on the upper blocks, kept as PEFT keeps it; `base` is used up.

    Args:
        learned: what the lower blocks make of the examples, 8 for each step, and the answers.
        seed: of the factors and of the order of the examples.
    """
    torch.manual_seed(seed)
    blocks = range(FIRST, base.config.num_hidden_layers)
    config = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=list(MODULES),
        layers_to_transform=list(blocks),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config).train()
    order = torch.randperm(len(learned[0]), generator=torch.Generator().manual_seed(seed))
    losses = (loss_of(base, *(part[some] for part in learned)) for some in order.split(8))
    _learn(model, losses, len(order) // 8, rate, folder.name)
    _kept(folder, model)


def _learn(
    model: nn.Module, losses: Iterator[torch.Tensor], steps: int, rate: float, what: str
) -> None:
    """AdamW, a tenth of the steps to warm up, then down to nothing in a straight line.

    Args:
        losses: each is computed when it is asked for.
    """
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(free, rate, betas=(0.9, 0.95), weight_decay=0.0)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / (steps - warm + 1))
    )
    for step in range(steps):
        with in_bfloat16():
            loss = next(losses)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(free, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        print(f"{what}: step {step + 1} of {steps}, loss {loss.item():.3f}", flush=True)


def _kept(folder: Path, model: LlamaForCausalLM) -> None:
    """Written whole or not at all."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    unfinished.rename(folder)
