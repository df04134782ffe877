"""A transfer of SDXL's UNet, a module of each kind at a time."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.files import NOISE, RANK
from benchmarks.operations import counted
from benchmarks.spectra import made, spectrum_of
from fixtures.stable_diffusion import SDXL, LoraModule, unet_lora_modules
from prolora.adapters import AdapterFile, LoraAdapter
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights
from prolora.transfer.job import transfer_resolved
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings


@dataclass(frozen=True)
class ModuleKind:
    """The modules of one shape and one kind of spectrum, which all take the same time."""

    spectrum: str
    modules: tuple[LoraModule, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return self.modules[0].m, self.modules[0].n

    @property
    def name(self) -> str:
        m, n = self.shape
        return f"transfer {self.spectrum} {m} x {n}"

    @property
    def operations(self) -> float:
        """Of one of them, as benchmarks/operations.py counts them."""
        return counted(self.modules[:1], RANK).total


def kinds() -> list[ModuleKind]:
    """Those of SDXL's UNet, the most frequent kind first."""
    groups: dict[tuple[str, int, int], list[LoraModule]] = defaultdict(list)
    for module in unet_lora_modules(SDXL):
        groups[spectrum_of(module.name), module.m, module.n].append(module)
    found = [ModuleKind(key[0], tuple(group)) for key, group in groups.items()]
    return sorted(found, key=lambda kind: -len(kind.modules))


def transfer_of(kind: ModuleKind, device: torch.device) -> Callable[[], object]:
    """Moves one of them in mode full, between weights in float16 that are in memory."""
    (m, n), name = kind.shape, kind.modules[0].name
    weight = made(kind.shape, kind.spectrum)
    drift = torch.randn(kind.shape, generator=torch.Generator().manual_seed(1))
    target = weight + NOISE * weight.std() * drift
    random = torch.Generator().manual_seed(2)
    up = torch.randn(m, RANK, generator=random) * 0.02
    down = torch.randn(RANK, n, generator=random) * n**-0.5
    adapter = LoraAdapter(name, up, down, float(RANK))
    file = AdapterFile("random", (adapter,), {}, (), {})
    lora = resolve(file, _model("A", name, weight))
    settings = TransferSettings(mode="full", threshold=0, device=device, workers=1)
    other = _model("B", name, target)
    return lambda: transfer_resolved(lora, other, settings)


def _model(called: str, module: str, weight: torch.Tensor) -> Model:
    weights = StateDictWeights({f"{module}.weight": weight.half()})
    return Model(called, "SDXL", weights, {module: WeightRef(f"{module}.weight")})
