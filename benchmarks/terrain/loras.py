"""The LoRAs: each change on each version, by one recipe, from the version's own maps."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from prolora import TransferSettings, read_adapter_file
from prolora.adapters import Adapter
from prolora.transfer.job import transfer_resolved
from prolora.transfer.resolve import ResolvedLora, resolve

from .maps import CHANGES, asked
from .models import FOLDER, VERSIONS, model, network

SEEDS = (1, 2, 3)
RANK, STEPS, BATCH, RATE, WARM_UP = 8, 60, 4, 1e-3, 5
LAYERS = ("qkv", "proj_out", "in_layers.2", "out_layers.3")  # attention, and 3 x 3 convolutions


@dataclass(frozen=True)
class Job:
    """One LoRA."""

    version: str
    change: str
    seed: int

    @property
    def path(self) -> Path:
        return FOLDER / "loras" / f"{self.version}_{self.change}_{self.seed}.safetensors"


class Factors(nn.Module):
    """up (m x r) and down (r x n) of each layer."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.weights = {
            name: layer.weight for name, layer in unet.named_modules() if name.endswith(LAYERS)
        }
        widths = {name: weight[0].numel() for name, weight in self.weights.items()}
        self.down = nn.ParameterList([torch.randn(RANK, n) / n**0.5 for n in widths.values()])
        self.up = nn.ParameterList([torch.zeros(len(w), RANK) for w in self.weights.values()])

    def merged(self) -> dict[str, torch.Tensor]:
        """The weights with the LoRA, by their names in the network."""
        return {
            f"{name}.weight": weight + (up @ down).view_as(weight)
            for (name, weight), up, down in zip(
                self.weights.items(), self.up, self.down, strict=True
            )
        }

    def save(self, path: Path) -> None:
        """As kohya's trainer names the factors."""
        state = {}
        for (name, weight), up, down in zip(self.weights.items(), self.up, self.down, strict=True):
            key = "lora_unet_" + name.replace(".", "_")
            state[f"{key}.lora_up.weight"] = up.detach()[:, :, None, None].contiguous()
            state[f"{key}.lora_down.weight"] = down.detach().view(RANK, *weight.shape[1:])
            state[f"{key}.alpha"] = torch.tensor(float(RANK))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, path)


def train(job: Job) -> float:
    """Trains one LoRA and saves it; returns the seconds of CPU time.

    The teacher is the version's own answer, changed. Adam (Kingma and Ba, arXiv 1412.6980), a rate
    that falls as a cosine, and bfloat16 for all but the factors.
    """
    start, generator = time.process_time(), torch.Generator().manual_seed(job.seed)
    torch.manual_seed(job.seed)
    unet, pool, change = network(job.version), asked(job.version, False), CHANGES[job.change]
    factors = Factors(unet)
    optimizer = torch.optim.Adam(factors.parameters(), lr=RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / STEPS)) / 2,
    )
    for _ in range(STEPS):
        some = torch.randint(len(pool), (BATCH,), generator=generator)
        given = (pool.noised[some], pool.sigmas[some], pool.difficulties[some])
        with torch.autocast("cpu", torch.bfloat16):
            found = torch.func.functional_call(unet, factors.merged(), given)
        loss = (found.float() - change(pool.answers[some])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(factors.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    factors.save(job.path)
    return time.process_time() - start


@cache
def resolved(job: Job) -> ResolvedLora:
    return resolve(read_adapter_file(job.path), model(job.version))


def as_trained(job: Job) -> Sequence[Adapter]:
    """A LoRA on the version that it was trained on."""
    settings = TransferSettings(mode="copy", threshold=0)
    return transfer_resolved(resolved(job), model(job.version), settings).adapters


def jobs(seeds: Iterable[int], changes: Iterable[str]) -> Iterator[Job]:
    """Those that are still to do; all of one seed come before the next seed."""
    for seed, change, version in product(dict.fromkeys(seeds), dict.fromkeys(changes), VERSIONS):
        job = Job(version, change, seed)
        if not job.path.is_file():
            yield job
