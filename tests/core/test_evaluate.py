"""`prolora evaluate`: the command as a whole, its table, its files, and what it refuses."""

import json
import re
import shutil
import socket
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPModel

from prolora.command_line import main
from prolora.evaluation.measures import JUDGES, MEASURES
from prolora.evaluation.weights import BY_OPTION

from .judge_files import write_clip, write_csd, write_dino, write_hps, write_trunk
from .judged_pictures import picture, write_pictures

ROOT = Path(__file__).parents[2]
ROWS = {"none": 100, "copy": 4, "full": 0}  # the first picture of each; the reference begins at 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "--clip": str(write_clip(folder / "clip")),
        "--dino": str(write_dino(folder / "dino")),
    }


@pytest.fixture(scope="module")
def all_weights(weights, tmp_path_factory) -> dict[str, str]:
    for library in ("open_clip", "lpips"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    folder = tmp_path_factory.mktemp("all_weights")
    return {
        **weights,
        "--csd": str(write_csd(folder / "csd.pth")),
        "--hps": str(write_hps(folder / "hps.pt")),
        "--lpips": str(write_trunk(folder / "alexnet.pth")),
    }


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for row, first in ROWS.items():
        write_pictures(tmp_path / "which_mode" / row, 6, first)
    write_pictures(tmp_path / "style", 5)
    (tmp_path / "prompts.txt").write_text("a disc\n")
    return tmp_path


def options(weights: dict[str, str]) -> list[str]:
    return [part for pair in weights.items() for part in pair]


COMPLETE = ("evaluate", "which_mode", "--reference", "style", "--prompts", "prompts.txt")


def test_every_measure(folder, all_weights, capsys):
    files = ("--json", "figures.json", "-o", "plot.png")
    assert main([*COMPLETE, *options(all_weights), *files]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert re.split(r"  +", printed[0].strip()) == ["pictures", *(m.name for m in MEASURES)]
    assert [line.split()[:2] for line in printed[1:4]] == [
        ["copy", "6"],
        ["full", "6"],
        ["none", "6"],
    ]
    assert not any(line.startswith("- left out") for line in printed)
    assert printed[-2:] == ["wrote figures.json", "wrote plot.png"]
    found = json.loads(Path("figures.json").read_text())
    assert list(found["measures"]) == [measure.name for measure in MEASURES]
    for name, measure in found["measures"].items():
        rows = measure["rows"]
        assert rows.keys() == ROWS.keys()
        for row, figure in rows.items():
            digits = 4 if name == "CSD-MMD" else 3
            line = next(line for line in printed if line.startswith(row))
            assert f"{figure['mean']:.{digits}f}" in line
            if figure["values"]:
                values = list(figure["values"].values())
                assert figure["mean"] == pytest.approx(statistics.fmean(values))
                assert figure["deviation"] == pytest.approx(statistics.stdev(values))
    assert found["measures"]["LPIPS diversity"]["rows"]["full"]["count"] == 6 * 5 // 2
    with Image.open("plot.png") as plot:
        assert plot.format == "PNG" and plot.width > 800
        assert len(plot.getcolors(1 << 20)) > 20


def test_what_is_the_reference_is_nearest_to_it(folder, weights, capsys):
    shutil.rmtree("which_mode/full")
    shutil.copytree("style", "which_mode/full")
    assert main([*COMPLETE, *options(weights), "--json", "figures.json"]) == 0
    measures = json.loads(Path("figures.json").read_text())["measures"]
    for name in ("DINOv2", "CLIP-I"):
        means = {row: figure["mean"] for row, figure in measures[name]["rows"].items()}
        assert means["full"] > means["none"] + 0.01, name


def test_clip_i_is_the_mean_over_all_pairs(folder, weights):
    assert main([*COMPLETE, *options(weights), "--json", "figures.json"]) == 0
    figure = json.loads(Path("figures.json").read_text())["measures"]["CLIP-I"]["rows"]["none"]
    model = CLIPModel.from_pretrained(weights["--clip"]).eval()
    processor = CLIPImageProcessor.from_pretrained(weights["--clip"])

    def described(path: Path) -> np.ndarray:
        images = [Image.open(file) for file in sorted(path.glob("*.png"))]
        with torch.no_grad():
            seen = model.vision_model(**processor(images=images, return_tensors="pt"))
            found = model.visual_projection(seen.pooler_output).double().numpy()
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    cosines = described(Path("which_mode/none")) @ described(Path("style")).T
    assert cosines.max() - cosines.mean() > 0.05
    assert figure["mean"] == pytest.approx(cosines.mean(), abs=1e-5)
    assert list(figure["values"].values()) == pytest.approx(list(cosines.mean(1)), abs=1e-5)


def test_only_what_is_named_is_measured_and_the_rest_is_said(folder, weights, capsys):
    assert main(["evaluate", "which_mode", *options(weights), "--reference", "style"]) == 0
    printed = capsys.readouterr().out
    assert "DINOv2" in printed.splitlines()[0] and "CLIP-T" not in printed.splitlines()[0]
    assert "left out, CLIP-T: it needs --prompts FILE, or a .txt beside each picture" in printed
    for option in ("csd", "hps", "lpips"):
        assert BY_OPTION[option].advice in printed
    assert "With fewer than 30 pictures a row, small differences are chance." in printed
    assert "Pictures smaller than 224 pixels are scaled up" in printed


def test_rows_by_name_and_prompts_beside(folder, weights, capsys):
    for row in ROWS:
        for path in Path("which_mode", row).glob("*.png"):
            path.with_suffix(".txt").write_text("a disc")
    named = ["before=which_mode/none", "which_mode/full"]
    assert main(["evaluate", *named, *options(weights)]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[1:3]] == ["before", "full"]
    assert "left out, CLIP-I: it needs --reference FOLDER" in printed


def test_a_row_that_a_measure_says_nothing_of(folder, all_weights, capsys):
    for path in sorted(Path("which_mode/copy").glob("*.png"))[1:]:
        path.unlink()
    assert main([*COMPLETE, *options(all_weights), "-o", "plot.png"]) == 0
    printed = capsys.readouterr().out
    why = "a distance of sets needs two pictures on both sides"
    assert f"left out, CSD-MMD of copy: {why}" in printed
    assert "left out, LPIPS diversity of copy: no two pictures have one prompt" in printed
    assert "The rows have different numbers of pictures" in printed


def test_a_single_picture_where_two_are_needed(folder, all_weights, capsys):
    write_pictures(folder / "single", 1)
    weights = {option: all_weights[option] for option in ("--csd", "--lpips")}
    files = ("--json", "figures.json", "-o", "plot.png")
    assert main(["evaluate", "single", "--reference", "style", *options(weights), *files]) == 1
    error = capsys.readouterr().err  # on a slow machine after how far it is
    assert "error: Nothing can be measured:" in error
    assert "- CSD-MMD of single: a distance of sets needs two pictures on both sides" in error
    assert not Path("figures.json").exists()


def test_pictures_of_all_kinds_and_sizes(folder, weights, capsys):
    mixed = folder / "mixed"
    mixed.mkdir()
    picture(0, (32, 32)).save(mixed / "small.png")
    picture(1, (512, 384)).save(mixed / "large.jpg")
    picture(2).convert("RGBA").save(mixed / "alpha.png")
    picture(3).quantize(8).save(mixed / "palette.png")
    picture(4).convert("L").save(mixed / "grey.webp")
    assert main(["evaluate", "mixed", "--reference", "style", *options(weights)]) == 0
    assert "The pictures have 3 sizes (32 x 32, 48 x 48, 512 x 384)" in capsys.readouterr().out


def test_weights_that_are_broken(folder, weights, capsys):
    broken = folder / "dino"
    shutil.copytree(weights["--dino"], broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["layernorm.weight"][0] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    assert main([*COMPLETE, "--dino", str(broken)]) == 1
    error = capsys.readouterr().err
    assert "error: --dino gives no finite numbers for reference. Its weights are broken" in error


def test_nothing_is_fetched(folder, all_weights, monkeypatch):
    def no_network(*arguments, **choices):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    assert main([*COMPLETE, *options(all_weights)]) == 0


def test_every_weight_has_a_judge():
    assert BY_OPTION.keys() == JUDGES.keys() == {measure.option for measure in MEASURES}


def test_a_library_that_is_missing(folder, weights, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main([*COMPLETE, *options(weights)]) == 1
    error = capsys.readouterr().err
    assert "error: This measure needs transformers, which cannot be imported" in error
    assert 'pip install "prolora[evaluate]"' in error


# What is added to a command that would succeed, and the words it gets.
REFUSED = [
    ("absent", "absent does not exist. Name a folder of pictures"),
    ("empty", "empty holds no pictures"),
    ("style style", "Two folders are called style. Give one another name: NAME=style"),
    ("full=which_mode", "which_mode holds no pictures but folders of them: copy, full, none"),
    ("style --reference absent", "absent does not exist"),
    ("style --reference empty", "empty holds no pictures"),
    ("style --prompts absent.txt", "absent.txt does not exist. Is the name right"),
    ("style --prompts three.txt", "three.txt has 3 prompts, and style 5 pictures"),
    ("broken", "broken/a.png could not be read as a picture"),
    (
        "style --clip absent",
        "absent does not exist. What is needed: --clip FOLDER: openai/clip-vit",
    ),
    ("style --clip prompts.txt", "prompts.txt is a file. What is needed: --clip FOLDER: openai"),
    ("style --csd style", "style is a folder. What is needed: --csd FILE: "),
    ("style --csd prompts.txt", "prompts.txt does not fit: torch cannot read it as weights"),
    (
        "style --dino clip",
        "its config.json is of clip, not of dinov2. What is needed: --dino FOLDER",
    ),
    ("style -o plot.jpg", "The plot is a PNG; plot.jpg is not named like one"),
    ("which_mode -o which_mode/plot.png", "which_mode/plot.png would lie among the pictures"),
    ("style -o style/plot.png", "style/plot.png would lie among the pictures"),
    ("style --json prompts.txt", "prompts.txt is named twice"),
    (
        "style --json three.txt",
        "three.txt exists. Choose another name, or overwrite it with --force",
    ),
]


@pytest.mark.parametrize(("more", "words"), REFUSED, ids=[more for more, _ in REFUSED])
def test_what_is_refused(folder, weights, capsys, more, words):
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").write_bytes(b"<html>")
    (folder / "three.txt").write_text("a\nb\nc\n")
    (folder / "clip").symlink_to(weights["--clip"])
    before = sorted(folder.rglob("*"))
    good = ["--reference", "style", "--prompts", "prompts.txt", *options(weights)]
    folders, dash, choices = more.partition(" -")
    assert main(["evaluate", *folders.split(), *good, *f"{dash}{choices}".split()]) == 1
    printed = capsys.readouterr()
    error = printed.err[printed.err.index("error: ") :]  # on a slow machine after how far it is
    assert words in error
    assert not printed.out
    assert sorted(folder.rglob("*")) == before


def test_nothing_to_measure_says_what_would_be_needed(folder, capsys):
    assert main(["evaluate", "style"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Nothing can be measured:")
    for weights in BY_OPTION.values():
        assert weights.advice in error


def test_the_page_says_what_the_code_says():
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for measure in MEASURES:
        (row,) = re.findall(rf"^\| {re.escape(measure.name)} \|.*\| (\w+) \|$", page, re.MULTILINE)
        assert row == measure.better
    for weights in BY_OPTION.values():
        kind = "FOLDER" if weights.folder else "FILE"
        assert f"| `--{weights.option} {kind}` | {weights.published} | {weights.licence} |" in page
