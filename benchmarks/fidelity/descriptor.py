"""A small network that looks at pictures: what is drawn, and by whom.

It is trained on other emoji than the models and LoRAs are (other subgroups of Unicode), in every
design and as cyanotypes, so it has seen the styles but none of the subjects. What stands for CSD,
CLIP and LPIPS in the tables of these small models is this network; the real ones are for
photographs and paintings (`prolora evaluate`).
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy, normalize, pad

from demo.emoji.code import PatchCode
from demo.training.data import cyanotype

from . import sets
from .effort import effort

LOOKS = (*sets.DESIGNS, "cyanotype")
UNSEEN = (*sets.KINDS, "cat-face", "time", "zodiac")  # subgroups
STEPS, BATCH, RATE = 1600, 64, 2e-3
HELD_OUT = 8  # one emoji of as many is kept apart


@dataclass(frozen=True)
class Looked:
    """What is seen in pictures.

    Attributes:
        subject: N x 128, of unit length: what is drawn, whoever drew it.
        style: N x 64, of unit length.
        look: N x len(LOOKS), logits.
        stages: N x c x h x w each, of unit length in c: for differences of pictures.
    """

    subject: torch.Tensor
    style: torch.Tensor
    look: torch.Tensor
    stages: tuple[torch.Tensor, ...]


class Descriptor(nn.Module):
    """Three stages of convolutions; the style is read from their statistics, as Gatys et al. do."""

    WIDTHS = (48, 96, 160)

    def __init__(self, subjects: int) -> None:
        super().__init__()
        inputs = (3, *self.WIDTHS)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs[i], width, 3, stride=2, padding=1),
                nn.GroupNorm(8, width),
                nn.GELU(),
            )
            for i, width in enumerate(self.WIDTHS)
        )
        self.to_subject = nn.Linear(self.WIDTHS[-1] * 16, 128)
        self.to_style = nn.Linear(2 * sum(self.WIDTHS), 64)
        self.look = nn.Linear(64, len(LOOKS))
        self.subject = nn.Parameter(torch.randn(subjects, 128))

    def forward(self, pictures: torch.Tensor) -> Looked:
        """Pictures N x 3 x 32 x 32 in 0..1."""
        found, x = [], pictures * 2 - 1
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        statistics = [part for x in found for part in (x.mean(dim=(2, 3)), x.std(dim=(2, 3)))]
        style = self.to_style(torch.cat(statistics, dim=1))
        return Looked(
            subject=normalize(self.to_subject(found[-1].flatten(1)), dim=1),
            style=normalize(style, dim=1),
            look=self.look(style),
            stages=tuple(normalize(x, dim=1) for x in found),
        )

    def loss(self, seen: Looked, subject: torch.Tensor, look: torch.Tensor) -> torch.Tensor:
        """Which emoji of which designer: cross entropies, of the emoji by cosines at scale 16."""
        cosines = seen.subject @ normalize(self.subject, dim=1).T
        return cross_entropy(16 * cosines, subject) + cross_entropy(seen.look, look)


def _other_emoji() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures, the emoji and the look of each."""
    every = {look: sets.pictures("flat" if look == "cyanotype" else look) for look in LOOKS}
    every["cyanotype"] = {c: cyanotype(p[None])[0] for c, p in every["cyanotype"].items()}
    codes = [c for c in sorted(every["noto"]) if sets.subgroups()[c] not in UNSEEN]
    codes = [c for c in codes if "-" not in c]  # no flags, skins and families: too many alike
    rows = [
        (every[look][c], i, j)
        for j, look in enumerate(LOOKS)
        for i, c in enumerate(codes)
        if c in every[look]
    ]
    pictures, emoji, looks = zip(*rows, strict=True)
    return torch.stack(pictures), torch.tensor(emoji), torch.tensor(looks)


def _varied(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shifted by up to 2 pixels and a little noisy, as drawn pictures are."""
    dx, dy = torch.randint(0, 5, (2,), generator=generator).tolist()
    moved = pad(pictures, (2, 2, 2, 2), value=1.0)[:, :, dy : dy + 32, dx : dx + 32]
    size = 0.08 * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    return (moved + size * torch.randn(moved.shape, generator=generator)).clamp(0, 1)


def train(path: Path) -> None:
    """Trains it, saves it, and says beside it how often it is right on emoji kept apart."""
    pictures, emoji, looks = _other_emoji()
    code = PatchCode.load()
    pictures = torch.cat([code.decode(code.encode(part)) for part in pictures.split(512)])
    torch.manual_seed(41)
    generator = torch.Generator().manual_seed(41)
    network = Descriptor(int(emoji.max()) + 1)
    kept = emoji % HELD_OUT == 0
    steps = effort().of(STEPS)
    rows = (~kept).nonzero().flatten()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for step in range(steps):
        batch = rows[torch.randint(len(rows), (BATCH,), generator=generator)]
        seen = network(_varied(pictures[batch], generator))
        loss = network.loss(seen, emoji[batch], looks[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"descriptor {step:5d}  loss {loss.item():.3f}", flush=True)
    save_file(network.state_dict(), path)
    with torch.no_grad():
        seen = network(pictures[kept])
    right = float((seen.look.argmax(1) == looks[kept]).float().mean())
    # Which emoji is it? The nearest of the others' pictures of it, among all that were kept apart.
    noto = looks[kept] == LOOKS.index("noto")
    means, names = seen.subject[noto], emoji[kept][noto]
    found = names[(seen.subject[~noto] @ means.T).argmax(1)]
    same = float((found == emoji[kept][~noto]).float().mean())
    said = {"pictures": len(pictures), "look": right, "emoji": same, "of": len(names)}
    path.with_suffix(".json").write_text(json.dumps(said) + "\n", encoding="utf-8")
    print("descriptor", said, flush=True)


@cache
def descriptor() -> Descriptor:
    """Trained once, in some minutes."""
    path = effort().folder / "models" / "descriptor.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        train(path)
    state = load_file(path)
    network = Descriptor(len(state["subject"]))
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def look_at(pictures: torch.Tensor) -> Looked:
    return descriptor()(pictures)


def apart(a: Looked, b: Looked) -> torch.Tensor:
    """How different pictures are, N: mean squared difference of unit features over all stages, as
    LPIPS (Zhang et al., arXiv 1801.03924) without its learned weights.
    """
    differences = [
        (x - y).square().sum(dim=1).mean(dim=(1, 2))
        for x, y in zip(a.stages, b.stages, strict=True)
    ]
    return torch.stack(differences).sum(dim=0)
