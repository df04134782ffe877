"""CSD and HPSv2.1 as judges: against transformers' CLIP, and against a CLIP of known sizes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPImageProcessor

from prolora.errors import ProLoRAError
from prolora.evaluation.judges.csd import Csd
from prolora.evaluation.judges.hps import Hps

from .judge_files import (
    SIDE,
    csd_tensors,
    preference_network,
    style_tower,
    write_csd,
    write_hps,
)
from .judged_pictures import picture

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")

CPU = torch.device("cpu")
IMAGES = [picture(i, (48, 48)) for i in range(4)]
TEXTS = ["a cat", "two dogs", "a house on a hill", "x"]


def described(tower) -> torch.Tensor:
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
    with torch.no_grad():
        found = tower(**processor(images=IMAGES, return_tensors="pt")).image_embeds
    return torch.nn.functional.normalize(found, dim=1)


def test_csd_is_openais_tower_with_a_head_for_style(tmp_path):
    want = described(style_tower())
    found = Csd(write_csd(tmp_path / "csd.pth"), CPU).pictures(IMAGES)
    for other in (want.flip(0), described(style_tower(hidden_act="gelu"))):
        assert (other - want).abs().max() > 1e-3
    assert (found - want).abs().max() < 1e-5
    assert torch.allclose(found.norm(dim=1), torch.ones(4))


def test_csd_in_safetensors(tmp_path):
    tensors = csd_tensors(style_tower())
    save_file(tensors, tmp_path / "csd.safetensors")
    found = Csd(tmp_path / "csd.safetensors", CPU).pictures(IMAGES)
    assert (found - Csd(write_csd(tmp_path / "csd.pth"), CPU).pictures(IMAGES)).abs().max() == 0


@pytest.mark.parametrize(("width", "head_width"), [(128, 64), (1280, 80)])
def test_hps_is_the_cosine_of_open_clip(tmp_path, width, head_width):
    network = preference_network(width, head_width)
    prepare = open_clip.image_transform(SIDE, is_train=False)
    pixels = torch.stack([prepare(image) for image in IMAGES])  # squares, so nothing is cut
    with torch.no_grad():
        seen, read, _ = network(pixels, open_clip.tokenize(TEXTS, context_length=12))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "hps.pt")
    judge = Hps(tmp_path / "hps.pt", CPU)
    found = torch.cosine_similarity(
        judge.pictures(IMAGES)[:, None], judge.prompts(TEXTS)[None], dim=2
    )
    want = seen @ read.T
    assert (want - want.T).abs().max() > 0.1
    assert (found - want).abs().max() < 1e-5


def test_hps_sees_the_whole_of_a_wide_picture(tmp_path):
    judge = Hps(write_hps(tmp_path / "hps.pt"), CPU)
    wide = picture(1, (96, 48))
    changed = wide.copy()
    changed.paste((255, 0, 0), (0, 0, 8, 48))  # outside of the middle square
    assert (judge.pictures([wide]) - judge.pictures([changed])).abs().max() > 1e-3


class Harmful:
    """Runs code where a pickle is read with trust."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(("judge", "option"), [(Csd, "csd"), (Hps, "hps")])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>", "torch cannot read it as weights"),
        (b"", "torch cannot read it as weights"),
        ([1, 2], "it holds no tensors by names"),
        ({"a": 1}, "it holds no tensors by names"),
        ({"a": torch.ones(2)}, "it has no "),
    ],
    ids=["page", "empty", "list", "numbers", "others"],
)
def test_what_is_no_checkpoint(tmp_path, judge, option, content, words):
    path = tmp_path / "weights.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ProLoRAError, match=f"weights.pt does not fit: {words}") as error:
        judge(path, CPU)
    assert f"What is needed: --{option} FILE: " in str(error.value)


def test_a_tower_of_other_sizes(tmp_path):
    tensors = csd_tensors(style_tower())
    del tensors["backbone.ln_post.weight"]
    save_file(tensors, tmp_path / "csd.safetensors")
    with pytest.raises(ProLoRAError, match=r"does not fit: .*ln_post\.weight"):
        Csd(tmp_path / "csd.safetensors", CPU)


def test_a_width_that_no_clip_has(tmp_path):
    tensors = csd_tensors(style_tower(hidden_size=96, intermediate_size=384))
    save_file(tensors, tmp_path / "csd.safetensors")
    with pytest.raises(ProLoRAError, match="its width of 96 is none of CLIP's"):
        Csd(tmp_path / "csd.safetensors", CPU)


def test_no_code_of_a_file_runs(tmp_path):
    done = tmp_path / "done"
    torch.save({"state_dict": Harmful(done)}, tmp_path / "weights.pt")
    for judge in (Csd, Hps):
        with pytest.raises(ProLoRAError, match="torch cannot read it as weights"):
            judge(tmp_path / "weights.pt", CPU)
    assert not done.exists()
    torch.load(tmp_path / "weights.pt", weights_only=False)
    assert done.exists()  # so it would have
