"""Trains what is moved and where to: the fine-tuned model, and LoRAs of the task by PEFT."""

import random
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM

from benchmarks.language.text import Example, batch_of

ROW = 64  # tokens of plain text that the fine-tuning sees at once
RANK = 8
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")


def in_bfloat16() -> AbstractContextManager[object]:
    """Matrix products in bfloat16, which this kind of machine does twice as fast."""
    return torch.autocast("cpu", torch.bfloat16)


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
    batches = (rows[order[8 * step : 8 * step + 8]] for step in range(steps))
    _learn(model, ((batch, batch) for batch in batches), steps, rate, "fine-tuning")
    _kept(folder, model)


def train_lora(
    base: Path,
    folder: Path,
    examples: list[Example],
    pad: int,
    steps: int,
    seed: int,
    rate: float = 2e-3,
) -> None:
    """A LoRA of the task, kept as PEFT keeps it.

    Args:
        seed: of the factors and of the order of the examples.
    """
    torch.manual_seed(seed)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=list(MODULES), task_type="CAUSAL_LM"
    )
    model = get_peft_model(open_model(base), config).train()
    chosen = random.Random(seed).sample(examples, 8 * steps)
    batches = (batch_of(chosen[8 * step : 8 * step + 8], pad) for step in range(steps))
    _learn(model, batches, steps, rate, f"{folder.name}")
    _kept(folder, model)


def _learn(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    rate: float,
    what: str,
) -> None:
    """AdamW, a tenth of the steps to warm up, then down to nothing in a straight line."""
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(free, rate, betas=(0.9, 0.95), weight_decay=0.0)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / (steps - warm + 1))
    )
    for step, (tokens, labels) in enumerate(batches):
        with in_bfloat16():
            loss = model(input_ids=tokens, labels=labels).loss
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
