"""The sizes of the benchmark, and of its quick form; where its models and LoRAs lie."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftModel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.evidence.results import BUILD, FOLDER
from prolora import load_checkpoint
from prolora.models.model import Model

from .checkpoint import unpack
from .text import Example, examples, other, reference, rows_of
from .train import ROW, fine_tune, open_model, train_lora

MODELS = ("source", "target")
_HELD_OUT_ROWS = 20  # one row of as many of the text for the fine-tuning is kept apart


@dataclass(frozen=True)
class Setting:
    """What is measured, and how long is trained.

    Attributes:
        folder: of models and LoRAs.
        results: the CSV file.
        fine_tuning, steps: of the target and of a LoRA, batches of 8.
        seeds: of LoRAs.
        answers: of those held out, whose loss is measured; a third is generated as well.
        heard: sequences of ROW tokens that a source samples to be recorded.
    """

    folder: Path = BUILD / "language"
    results: Path = FOLDER / "language.csv"
    fine_tuning: int = 90
    fine_tuning_rate: float = 1e-3
    steps: int = 24
    seeds: tuple[int, ...] = (0, 1, 2)
    answers: int = 48
    heard: int = 24

    def base(self, name: str) -> Path:
        """The folder of a model, one of MODELS; it is made where it is not there."""
        folder = self.folder / name
        if not folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            if name == "source":
                unpack(folder)
            else:
                rows = rows_of(reference(), self.tokenizer, ROW)
                learned = rows[torch.arange(len(rows)) % _HELD_OUT_ROWS != 0]
                source = self.base("source")
                fine_tune(source, folder, learned, self.fine_tuning, self.fine_tuning_rate)
        return folder

    def lora(self, model: str, seed: int) -> Path:
        """The folder of a LoRA that was trained on a model."""
        folder = self.folder / f"{model}-{seed}"
        if not folder.is_dir():
            learned, _ = self.task
            base, pad = self.base(model), self.tokenizer.pad_token_id
            train_lora(base, folder, learned, pad, self.steps, seed)
        return folder

    def with_lora(self, model: str, seed: int) -> LlamaForCausalLM:
        """A model with the LoRA that was trained on it, merged by PEFT."""
        return PeftModel.from_pretrained(
            open_model(self.base(model)), self.lora(model, seed)
        ).merge_and_unload()

    def core(self, name: str) -> Model:
        """A model as a transfer sees it."""
        return load_checkpoint(self.base(name))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast.from_pretrained(self.base("source"))

    @cached_property
    def task(self) -> tuple[list[Example], list[Example]]:
        """The examples to learn from, and those held out."""
        return examples(self.tokenizer)

    @cached_property
    def kept_apart(self) -> torch.Tensor:
        """Text of the fine-tuning's kind that it has not seen, 16 rows."""
        return rows_of(reference(), self.tokenizer, ROW)[::_HELD_OUT_ROWS][:16]

    @cached_property
    def other(self) -> torch.Tensor:
        """Text that nothing is trained on, 8 rows."""
        rows = rows_of(other(), self.tokenizer, ROW)
        return rows[:: len(rows) // 8][:8]


WHOLE = Setting()
QUICK = Setting(
    folder=BUILD / "language" / "quick",
    results=BUILD / "language" / "quick" / "results.csv",
    fine_tuning=6,
    steps=8,
    seeds=(0,),
    answers=16,
    heard=8,
)
