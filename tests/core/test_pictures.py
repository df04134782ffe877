"""Folders of pictures and prompts: what is read of them, and what is refused in which words."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prolora.errors import ProLoRAError
from prolora.evaluation.pictures import about_sizes, folders_of, pictures_in, read_picture
from prolora.evaluation.prompts import prompts_beside, prompts_from

from .judged_pictures import picture, write_pictures


def pixels(path: Path) -> np.ndarray:
    image = read_picture(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_the_order_is_that_of_the_names(tmp_path):
    for name in ("b.png", "a.JPG", "c.webp"):
        picture(0).save(tmp_path / name)
    for name in ("._a.png", "notes.txt", "d.gif"):
        (tmp_path / name).write_text("")
    (tmp_path / "deeper.png").mkdir()
    assert [path.name for path in pictures_in(tmp_path)] == ["a.JPG", "b.png", "c.webp"]


def test_a_folder_is_a_row_or_holds_rows(tmp_path):
    for name in ("full", "copy"):
        write_pictures(tmp_path / name, 2)
    (tmp_path / "empty").mkdir()
    assert list(folders_of("", tmp_path)) == ["copy", "full"]
    assert list(folders_of("", tmp_path / "full")) == ["full"]
    assert list(folders_of("mine", tmp_path / "full")) == ["mine"]
    with pytest.raises(ProLoRAError, match=r"folders of them: copy, full\. Name it without mine="):
        folders_of("mine", tmp_path)


@pytest.mark.parametrize("alpha", [0, 64, 255])
def test_what_is_transparent_lies_on_white(tmp_path, alpha):
    image = picture(1).convert("RGBA")
    image.putalpha(alpha)
    image.save(tmp_path / "a.png")
    plain = np.asarray(picture(1)).astype(float)
    want = plain * alpha / 255 + 255 * (1 - alpha / 255)
    assert np.abs(want - 255).max() > 50 or alpha == 0
    assert np.abs(pixels(tmp_path / "a.png") - want).max() <= 1


def test_palettes_and_greys(tmp_path):
    image = picture(1).quantize(4)
    image.save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    assert np.abs(pixels(tmp_path / "palette.png").astype(int) - np.asarray(picture(1))).max() <= 8
    image.save(tmp_path / "clear.png", transparency=image.getpixel((0, 0)))
    assert (pixels(tmp_path / "clear.png")[0, 0] == 255).all()
    picture(1).convert("L").save(tmp_path / "grey.png")
    assert np.ptp(pixels(tmp_path / "grey.png"), axis=2).max() == 0


def test_a_turned_photograph_is_upright(tmp_path):
    image = picture(1, (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "a.png", exif=exif)
    assert Image.open(tmp_path / "a.png").size == (40, 20)
    assert np.array_equal(pixels(tmp_path / "a.png"), np.rot90(np.asarray(image), -1))


def broken(path: Path) -> None:
    picture(1).save(path)
    path.write_bytes(path.read_bytes()[:90])


def deep(path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(path)


def animation(path: Path) -> None:
    picture(1).save(path, save_all=True, append_images=[picture(2)])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: path.write_bytes(b""), "could not be read as a picture"),
        (lambda path: path.write_text("<html>"), "could not be read as a picture"),
        (broken, "could not be read as a picture"),
        (deep, "has more than 8 bits a channel"),
        (animation, "is an animation"),
    ],
    ids=["empty", "page", "broken", "deep", "animation"],
)
def test_what_is_no_picture(tmp_path, write, words):
    path = tmp_path / "a.png"
    write(path)
    with pytest.raises(ProLoRAError, match=f"{path} {words}"):
        read_picture(path)


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("absent", "absent does not exist. Name a folder of pictures"),
        ("empty", r"empty holds no pictures \(.png, "),
        ("file.png", "file.png is no folder"),
    ],
)
def test_what_is_no_folder_of_pictures(tmp_path, folder, words):
    (tmp_path / "empty").mkdir()
    picture(0).save(tmp_path / "file.png")
    for read in (pictures_in, lambda path: folders_of("", path)):
        with pytest.raises(ProLoRAError, match=words):
            read(tmp_path / folder)


def test_what_is_said_of_sizes():
    assert about_sizes({(512, 512)}, 224) == []
    assert about_sizes({(64, 64)}, 224) == [
        "Pictures smaller than 224 pixels are scaled up; the judges know sharper ones."
    ]
    assert about_sizes({(512, 512), (512, 768)}, 224) == [
        "The pictures have 2 sizes (512 x 512, 512 x 768); all are scaled.",
        "Of pictures that are not square, most judges see the middle square.",
    ]


# Prompts


@pytest.fixture
def rows(tmp_path) -> dict[str, list[Path]]:
    return {name: write_pictures(tmp_path / name, 2) for name in ("none", "full")}


def test_a_line_is_for_all_or_for_each(tmp_path, rows):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa cat\n\n", encoding="utf-8")
    assert prompts_from(file, rows).of == {"none": ["a cat"] * 2, "full": ["a cat"] * 2}
    file.write_text("a cat\r\na dog\r\n")
    assert prompts_from(file, rows).of == {"none": ["a cat", "a dog"], "full": ["a cat", "a dog"]}


def test_a_text_beside_each_picture(rows):
    assert prompts_beside(rows).missing == "it needs --prompts FILE, or a .txt beside each picture"
    for row, paths in rows.items():
        for i, path in enumerate(paths):
            path.with_suffix(".txt").write_text(f"a cat\n{row} {i}\n")
    assert prompts_beside(rows).of["full"] == ["a cat full 0", "a cat full 1"]
    rows["full"][0].with_suffix(".txt").write_text(" \n")
    with pytest.raises(ProLoRAError, match=r"picture_00000_\.txt is empty\. Write the prompt of"):
        prompts_beside(rows)
    rows["full"][1].with_suffix(".txt").unlink()
    with pytest.raises(ProLoRAError, match=r"while others have \(1 of 4 pictures have none\)"):
        prompts_beside(rows)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist. Is the name right"),
        (b"", "is empty. Write a prompt a line"),
        (b"\xff\xfe\x00", "is no text in UTF-8. Save it"),
        (b"a\nb\nc\n", "has 3 prompts, and none 2 pictures. Write one line for all"),
    ],
    ids=["absent", "empty", "no text", "too many"],
)
def test_what_is_no_file_of_prompts(tmp_path, rows, content, words):
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ProLoRAError, match=words):
        prompts_from(file, rows)
