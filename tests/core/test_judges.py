"""CLIP and DINOv2 as judges, against the same models asked through transformers' own processors."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Dinov2Model,
)

from prolora.errors import ProLoRAError
from prolora.evaluation.judges.clip import Clip
from prolora.evaluation.judges.dino import Dino

from .judge_files import write_clip, write_dino
from .judged_pictures import picture

CPU = torch.device("cpu")
IMAGES = [picture(i, (60, 48)) for i in range(4)]
TEXTS = ["a cat", "two dogs", "a cat " * 40, "x"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("judges")
    return {"clip": write_clip(folder / "clip"), "dino": write_dino(folder / "dino")}


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(a[:, None].double(), b[None].double(), dim=2)


def test_clip_says_what_transformers_says(folders):
    model = CLIPModel.from_pretrained(folders["clip"]).eval()
    processor = CLIPProcessor(
        CLIPImageProcessor.from_pretrained(folders["clip"]),
        CLIPTokenizer.from_pretrained(folders["clip"]),
    )
    inputs = processor(
        text=TEXTS, images=IMAGES, return_tensors="pt", padding=True, truncation=True, max_length=16
    )
    with torch.no_grad():
        want = model(**inputs).logits_per_image.double() / model.logit_scale.exp().double()
    judge = Clip(folders["clip"], CPU)
    found = cosines(judge.pictures(IMAGES), judge.prompts(TEXTS))
    assert (want.T - want).abs().max() > 0.1
    assert (found - want).abs().max() < 1e-5


def test_dino_is_the_class_token(folders):
    model = Dinov2Model.from_pretrained(folders["dino"]).eval()
    processor = AutoImageProcessor.from_pretrained(folders["dino"])
    with torch.no_grad():
        tokens = model(**processor(images=IMAGES, return_tensors="pt")).last_hidden_state
    found = Dino(folders["dino"], CPU).pictures(IMAGES)
    assert (tokens.mean(1) - tokens[:, 0]).abs().max() > 0.1
    assert (found - tokens[:, 0]).abs().max() < 1e-5


def test_pictures_one_by_one_or_together(folders):
    judge = Clip(folders["clip"], CPU)
    together = judge.pictures(IMAGES)
    assert (together[0] - together[1]).abs().max() > 0.1
    for i, image in enumerate(IMAGES):
        assert (judge.pictures([image])[0] - together[i]).abs().max() < 1e-5


def without(name: str):
    return lambda folder: next(folder.glob(name)).unlink()


def another_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))


def deeper(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("config.json"), "it has no config.json"),
        (without("preprocessor_config.json"), "it has no preprocessor_config.json"),
        (without("vocab.json"), "its tokenizer's files"),
        (pickled, r"it has no model.safetensors \(pickles are not read\)"),
        (another_model, "its config.json is of siglip, not of clip"),
        (deeper, "of its weights are missing, the first is "),
        (lambda folder: (folder / "config.json").write_text("{"), "its config.json is no JSON"),
        (lambda folder: (folder / "model.safetensors").write_text("<html>"), "does not fit: "),
    ],
    ids=["config", "processor", "tokenizer", "pickle", "other", "deeper", "no JSON", "page"],
)
def test_what_is_no_clip(tmp_path, folders, change, words):
    folder = tmp_path / "clip"
    shutil.copytree(folders["clip"], folder)
    (folder / "tokenizer.json").unlink()  # vocab.json and merges.txt are enough
    Clip(folder, CPU)
    change(folder)
    with pytest.raises(ProLoRAError, match=words) as error:
        Clip(folder, CPU)
    assert "What is needed: --clip FOLDER: openai/clip-vit-large-patch14" in str(error.value)
    assert "licence MIT, as OpenAI's code" in str(error.value)
