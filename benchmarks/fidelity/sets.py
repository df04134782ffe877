"""The pictures: emoji of 32 pixels in the hands of several designers, out of npm packages.

An emoji is known by its code point, so the same apple is there in every design. What models,
styles and concepts are made of is said in `MODEL_SETS`, `STYLES` and `CONCEPTS`.
"""

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.evidence.results import BUILD
from demo.training.data import SIZE, cyanotype, on_white

FOLDER = BUILD / "fidelity"
NAMES_PACKAGE = "emojibase-data@17.0.0"


@dataclass(frozen=True)
class Design:
    """One designer's emoji.

    Attributes:
        package: of npm, an icon set in JSON.
        licence: of the pictures.
    """

    package: str
    licence: str


DESIGNS = {
    "noto": Design("@iconify-json/noto@1.2.9", "Apache 2.0"),
    "twemoji": Design("@iconify-json/twemoji@1.2.5", "CC BY 4.0"),
    "emojione": Design("@iconify-json/emojione@1.2.3", "CC BY 4.0"),
    "openmoji": Design("@iconify-json/openmoji@1.2.29", "CC BY-SA 4.0"),
    "flat": Design("@iconify-json/fluent-emoji-flat@1.2.6", "MIT"),
    "contrast": Design("@iconify-json/fluent-emoji-high-contrast@1.2.6", "MIT"),
    "monotone": Design("@iconify-json/emojione-monotone@1.2.1", "CC BY 4.0"),
    "blob": Design("@iconify-json/noto-v1@1.2.5", "Apache 2.0"),
}

# What the models draw: subgroups of Unicode's emoji, which are also their prompts.
KINDS = (
    "animal-bird",
    "animal-mammal",
    "clothing",
    "drink",
    "face-concerned",
    "food-fruit",
    "food-prepared",
    "heart",
    "place-building",
    "sky-weather",
    "sport",
    "transport-ground",
)
# Prompts that no style LoRA is trained with.
HELD_OUT_KINDS = ("animal-bird", "drink")

Picture = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Style:
    """A design, and what is done to its pictures [N, 3, H, W]."""

    design: str
    made: Picture = torch.Tensor.clone


STYLES = {
    "contrast": Style("contrast"),
    "openmoji": Style("openmoji"),
    "cyanotype": Style("flat", cyanotype),
}
# Subjects that no model has seen, and the code points that they have; in the flat design.
CONCEPTS = {
    "cat": range(0x1F638, 0x1F641),
    "clock": range(0x1F550, 0x1F568),
    "zodiac": range(0x2648, 0x2654),
}
CONCEPT_DESIGN = "flat"


@cache
def tarball(package: str) -> tarfile.TarFile:
    """A package of npm, downloaded once.

    Raises:
        SystemExit: npm is not there or fails.
    """
    folder = FOLDER / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    name = package.removeprefix("@").replace("/", "-").replace("@", "-") + ".tgz"
    if not (folder / name).is_file():
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), package]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"{package} could not be fetched: {error}. Is npm installed?"
            ) from error
    return tarfile.open(folder / name)


def _member(package: str, name: str) -> object:
    file = tarball(package).extractfile(f"package/{name}")
    assert file is not None
    return json.load(file)


@cache
def subgroups() -> dict[str, str]:
    """Code points, as `1F34E`, with -FE0F removed -> the subgroup that they are in."""
    groups = _member(NAMES_PACKAGE, "meta/groups.json")["subgroups"]
    table = _member(NAMES_PACKAGE, "en/data.json")
    return {
        entry["hexcode"].replace("-FE0F", ""): groups[str(entry["subgroup"])]
        for entry in table
        if "subgroup" in entry
    }


@cache
def icon_names() -> dict[str, str]:
    """Code points -> what icon sets call them."""
    names = _member(DESIGNS["noto"].package, "chars.json")
    return {code.upper().replace("-FE0F", ""): name for code, name in names.items()}


@cache
def pictures(design: str) -> dict[str, torch.Tensor]:
    """All emoji that a design has: code points -> a picture [3, 32, 32] in 0..1, on white."""
    path = FOLDER / "pictures" / f"{design}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({code: _drawn(svg) for code, svg in _svgs(design)}, path)
    return {code: picture.float() / 255 for code, picture in load_file(path).items()}


def _svgs(design: str) -> Sequence[tuple[str, str]]:
    package = DESIGNS[design].package
    icons = _member(package, "icons.json")
    found = []
    for code in subgroups():
        name = icon_names().get(code, "")
        name = icons.get("aliases", {}).get(name, {}).get("parent", name)
        if icon := icons["icons"].get(name):
            size = [icon.get(side, icons.get(side, 16)) for side in ("width", "height")]
            body = icon["body"].replace("currentColor", "#000")
            found.append(
                (
                    code,
                    '<svg xmlns="http://www.w3.org/2000/svg" '
                    'xmlns:xlink="http://www.w3.org/1999/xlink" '
                    f'viewBox="0 0 {size[0]} {size[1]}" width="64" height="64">{body}</svg>',
                )
            )
    return found


def _drawn(svg: str) -> torch.Tensor:
    """A picture [3, 32, 32] of bytes."""
    import resvg_py  # the one thing here that needs it

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg))
    # Premultiplied ("a"), so that shrinking mixes no colour of invisible pixels in.
    large = Image.open(io.BytesIO(png)).convert("RGBA").convert("RGBa")
    small = large.resize((SIZE, SIZE), Image.Resampling.BOX)
    rows = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    emoji = rows.reshape(1, SIZE, SIZE, 4).movedim(-1, 1).float() / 255
    return (on_white(emoji)[0] * 255).round().byte().contiguous()


@dataclass(frozen=True)
class Pictures:
    """Pictures [N, 3, 32, 32] in 0..1, and the prompt of each."""

    pictures: torch.Tensor
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.prompts)

    def where(self, chosen: Sequence[bool]) -> "Pictures":
        """Those for which `chosen` says so."""
        prompts = [p for p, is_chosen in zip(self.prompts, chosen, strict=True) if is_chosen]
        return Pictures(self.pictures[torch.tensor(chosen)], prompts)


def of_kinds(design: str, kinds: Sequence[str] = KINDS) -> Pictures:
    """A design's pictures of some kinds, in the order of their code points."""
    found = pictures(design)
    codes = [code for code in sorted(found) if subgroups()[code] in kinds]
    return Pictures(torch.stack([found[c] for c in codes]), [subgroups()[c] for c in codes])


def of_style(style: str) -> tuple[Pictures, Pictures]:
    """A style's pictures to train on, and those held out: every fifth, and two kinds whole."""
    every = of_kinds(STYLES[style].design)
    every = Pictures(STYLES[style].made(every.pictures), every.prompts)
    held = [i % 5 == 0 or prompt in HELD_OUT_KINDS for i, prompt in enumerate(every.prompts)]
    return every.where([not is_held for is_held in held]), every.where(held)


def of_concept(concept: str) -> tuple[Pictures, Pictures]:
    """A concept's pictures to train on, and those held out: every third."""
    found = pictures(CONCEPT_DESIGN)
    codes = [f"{code:X}" for code in CONCEPTS[concept] if f"{code:X}" in found]
    every = Pictures(torch.stack([found[code] for code in codes]), [concept] * len(codes))
    held = [i % 3 == 1 for i in range(len(codes))]
    return every.where([not is_held for is_held in held]), every.where(held)
