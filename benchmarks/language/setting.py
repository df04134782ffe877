"""The sizes of the benchmark, and of its quick form; where its models and LoRAs lie."""

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from peft import PeftModel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.evidence.results import BUILD, FOLDER
from prolora import load_checkpoint
from prolora.models.model import Model

from .checkpoint import unpack
from .measures import Lower, measured
from .text import Example, batch_of, examples, other, reference, rows_of
from .train import ROW, fine_tune, open_model, train_lora
from .upper import below

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
            base = open_model(self.base(model))
            train_lora(base, folder, lower_of(self, model, "learned"), seed)
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

    def text(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and labels.

        Args:
            name: `learned` and `answers` of the task; `reference`, what the target has not seen of
                the text that it learns; `other`, of a text that nothing is trained on.
        """
        learned, held_out = self.task
        if name in ("learned", "answers"):
            some = learned[: 8 * self.steps] if name == "learned" else held_out[: self.answers]
            return batch_of(some, self.tokenizer.pad_token_id)
        rows = rows_of({"reference": reference, "other": other}[name](), self.tokenizer, ROW)
        rows = rows[:: _HELD_OUT_ROWS if name == "reference" else len(rows) // 8][:8]
        return rows, rows

    def measure(self, model: LlamaForCausalLM, base: str) -> dict[str, float]:
        """The columns of the results of a model.

        Args:
            base: from which it differs in the upper blocks alone.
        """
        answers, other = (lower_of(self, base, name) for name in ("answers", "other"))
        generated = self.task[1][: self.answers // 3]
        return measured(model, answers, other, generated, self.tokenizer)


@cache
def lower_of(setting: Setting, base: str, name: str) -> Lower:
    """What the lower blocks of a model make of a text, and the labels; see Setting.text."""
    tokens, labels = setting.text(name)
    return below(open_model(setting.base(base)), tokens), labels


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
