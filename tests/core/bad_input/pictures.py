"""Pictures to be judged, their prompts, and the weights of what judges them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from prolora.evaluation.pictures import folders_of, pictures_in, read_picture
from prolora.evaluation.prompts import prompts_beside, prompts_from
from prolora.evaluation.weights import tensors_of

from ..judged_pictures import picture, write_pictures
from .case import Case, Table, written


def read(content: bytes | str) -> Callable[[], object]:
    return lambda: read_picture(written("a.png", content))


def broken() -> object:
    picture(1).save("a.png")
    return read_picture(written("a.png", Path("a.png").read_bytes()[:90]))


def deep() -> object:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save("a.png")
    return read_picture(Path("a.png"))


def animation() -> object:
    picture(1).save("a.png", save_all=True, append_images=[picture(2)])
    return read_picture(Path("a.png"))


def folders_of_folders() -> object:
    for row in ("copy", "full"):
        write_pictures(Path("results", row), 2)
    return folders_of("mine", Path("results"))


def prompts(text: str | bytes) -> Callable[[], object]:
    def call() -> object:
        rows = {"style": write_pictures(Path("style"), 2)}
        return prompts_from(written("prompts.txt", text), rows)

    return call


def beside(text: str) -> Callable[[], object]:
    """A prompt beside the first of two pictures."""

    def call() -> object:
        paths = write_pictures(Path("style"), 2)
        written(str(paths[0].with_suffix(".txt")), text)
        return prompts_beside({"style": paths})

    return call


def empty_beside() -> object:
    paths = write_pictures(Path("style"), 1)
    written(str(paths[0].with_suffix(".txt")), " \n")
    return prompts_beside({"style": paths})


TABLES = (
    Table(
        "Pictures that are judged",
        "`prolora evaluate`",
        (
            Case("an empty file as a picture", read(b""), "could not be read as a picture"),
            Case(
                "a page of the web as a picture", read("<html>"), "could not be read as a picture"
            ),
            Case("a picture that broke off", broken, "could not be read as a picture"),
            Case("a picture of 16 bits", deep, "more than 8 bits"),
            Case("an animation", animation, "is an animation"),
            Case(
                "a folder that does not exist",
                lambda: pictures_in(Path("absent")),
                "does not exist",
            ),
            Case("a file as a folder", lambda: pictures_in(written("a.png", b"")), "is no folder"),
            Case("folders of folders under one name", folders_of_folders, "but folders of them"),
            Case("no prompt in the file", prompts("\n"), "is empty"),
            Case("more prompts than pictures", prompts("a\nb\nc\n"), "3 prompts"),
            Case("prompts that are no text", prompts(b"\xff\xfe\0"), "UTF-8"),
            Case(
                "a picture without a prompt, where others have one",
                beside("a cat"),
                "has no prompt beside",
            ),
            Case("an empty prompt", empty_beside, "is empty"),
            Case(
                "a page of the web as the weights",
                lambda: tensors_of(written("csd.pth", "<html>"), "csd"),
                "cannot read it as weights",
            ),
        ),
    ),
)
