"""Generated checkpoints and LoRAs of SDXL's names and shapes, made once and kept in a folder.

A checkpoint is a UNet in fp16 (5.1 GB), whose weights have spectra like real ones (spectra.py). The
target is the source plus a tenth of white noise, so its modules pass the threshold; a child is the
UNet of a pruned model, made of blocks of the source plus as much noise. No real weights are needed,
because time and memory depend on shapes and spectra alone. Both checkpoints and a child are 13 GB.
"""

import argparse
import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fixtures.children import CHILDREN, any_of, origins
from fixtures.stable_diffusion import (
    SDXL,
    LoraModule,
    Shape,
    Shapes,
    UNet,
    file_header,
    unet,
    unet_lora_modules,
)

from .report import BUILD
from .spectra import made, spectrum_of

NOISE = 0.1  # of the target, relative to the source's weights
RANK = 32
CHILDREN_BY_NAME = {child.inventory: child for child in CHILDREN}
SDXL_ITSELF = "sdxl"
_UNET = "model.diffusion_model."  # where it lies in a checkpoint
_FORMAT = 1  # raise it when what is generated changes

Tensors = Iterator[torch.Tensor]


@dataclass(frozen=True)
class Library:
    """A folder of generated files.

    Attributes:
        width: channels of the UNet; SDXL's are 320.
    """

    folder: Path
    width: int = SDXL.channels

    @property
    def modules(self) -> tuple[LoraModule, ...]:
        """All that a LoRA for the UNet attaches to."""
        return unet_lora_modules(self._figures(SDXL))

    def source(self) -> Path:
        return self._kept("source", lambda: self._shapes(SDXL), self._random_weights)

    def target(self, model: str = SDXL_ITSELF) -> Path:
        """A fine-tune of the source, or a pruned child by the name of its inventory."""
        figures = SDXL if model == SDXL_ITSELF else CHILDREN_BY_NAME[model].figures
        return self._kept(model, lambda: self._shapes(figures), lambda: self._derived(model))

    def loras(self, modules: Sequence[LoraModule], count: int = 1, rank: int = RANK) -> list[Path]:
        """LoRAs in kohya's layout, of different numbers; kept too."""
        names = zlib.crc32(" ".join(module.name for module in modules).encode())
        folder = self._folder / f"loras_of_{len(modules)}_modules_{names:08x}_rank_{rank}"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"lora_{i:03d}.safetensors" for i in range(count)]
        for i, path in enumerate(paths):
            if not path.exists():
                _write_whole(path, lambda part, seed=i: write_lora(modules, part, rank, seed))
        return paths

    @property
    def _folder(self) -> Path:
        return self.folder / f"files_{_FORMAT}_width_{self.width}"

    def _figures(self, figures: UNet) -> UNet:
        return figures if self.width == SDXL.channels else figures.narrowed(self.width)

    def _shapes(self, figures: UNet) -> Shapes:
        return {_UNET + key: shape for key, shape in unet(self._figures(figures)).items()}

    def _kept(
        self, name: str, shapes: Callable[[], Shapes], tensors: Callable[[], Tensors]
    ) -> Path:
        path = self._folder / f"{name}.safetensors"
        if not path.exists():
            print(f"writing {path} ...", flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(path, lambda part: _write_checkpoint(part, shapes(), tensors()))
        return path

    def _random_weights(self) -> Tensors:
        for seed, (key, shape) in enumerate(self._shapes(SDXL).items()):
            if len(shape) < 2:
                yield torch.ones(shape)
            else:
                name = key.removesuffix(".weight")
                yield made((shape[0], math.prod(shape[1:])), spectrum_of(name), seed)

    def _derived(self, model: str) -> Tensors:
        """The source's weights with noise on them; of a child, those of the blocks it has kept."""
        if model == SDXL_ITSELF:
            parents = {key: key for key in unet(self._figures(SDXL))}
        else:
            parents = origins(CHILDREN_BY_NAME[model], any_of)
        random = torch.Generator().manual_seed(1)
        with safe_open(self.source(), framework="pt") as source:
            for parent in parents.values():
                yield _with_noise(source.get_tensor(_UNET + parent), random)


def add_library(parser: argparse.ArgumentParser, modules: bool = True) -> None:
    """The options of what is generated; and of how many modules move, unless a benchmark knows."""
    parser.add_argument(
        "--cache", type=Path, default=BUILD / "files", help="for generated files (%(default)s)"
    )
    parser.add_argument("--width", type=int, default=SDXL.channels, help="channels (%(default)s)")
    if modules:
        parser.add_argument(
            "--modules", type=int, default=0, help="how many, spread over all shapes; 0 for all (0)"
        )


def library_of(options: argparse.Namespace) -> Library:
    return Library(options.cache.resolve(), options.width)


def into_page_cache(path: Path) -> None:
    """Reads it once, so that a first run finds what a second one would."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def spread(modules: Sequence[LoraModule], count: int) -> list[LoraModule]:
    """About so many: of each shape its share, spread evenly, and at least one; all for 0."""
    if not 0 < count < len(modules):
        return list(modules)
    chosen: list[LoraModule] = []
    for alike in by_shape(modules).values():
        share = max(round(count * len(alike) / len(modules)), 1)
        chosen += [alike[i * len(alike) // share] for i in range(share)]
    return chosen


def by_shape(modules: Sequence[LoraModule]) -> dict[Shape, list[LoraModule]]:
    """Those of one shape together, the most frequent shape first."""
    groups: dict[Shape, list[LoraModule]] = defaultdict(list)
    for module in modules:
        groups[module.m, module.n].append(module)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def write_lora(modules: Sequence[LoraModule], path: Path, rank: int = RANK, seed: int = 0) -> None:
    """A LoRA of random numbers in kohya's layout."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in modules:
        up = torch.randn(module.m, rank, generator=random) * 0.02
        down = torch.randn(rank, module.n, generator=random) * module.n**-0.5
        tensors[f"{module.name}.lora_up.weight"] = up.half()
        tensors[f"{module.name}.lora_down.weight"] = down.half()
        tensors[f"{module.name}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, path)


def _with_noise(weight: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    weight = weight.float()
    if weight.dim() < 2:
        return weight
    size = NOISE * float(weight.norm()) / math.sqrt(weight.numel())
    return weight + size * torch.randn(weight.shape, generator=random)


def _write_checkpoint(path: Path, shapes: Shapes, tensors: Tensors) -> None:
    with path.open("wb") as file:
        file.write(file_header(shapes))
        for tensor in tensors:
            file.write(tensor.half().numpy().data)


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Under another name until it is whole."""
    part = path.with_suffix(".part")
    write(part)
    part.rename(path)
