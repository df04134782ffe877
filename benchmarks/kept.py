"""How long a transfer takes once more, with another threshold, rank or mode.

    python -m benchmarks.kept                # 24 modules, spread evenly over SDXL's UNet
    python -m benchmarks.kept --modules 0    # all 722

Run it in the repository's root. It writes the weights of these modules twice in fp16, with SDXL's
names and shapes, all of random numbers: the target is the source plus a tenth of noise. The same
LoRA of rank 32 moves again and again, with what a node keeps and without. The runs take turns, so
that another load on the machine slows both.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from fixtures.stable_diffusion import SDXL, LoraModule, unet_lora_modules
from prolora import read_adapter_file
from prolora.algebra.kept import NOTHING_KEPT, Forgetful, Kept
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import SafetensorsWeights
from prolora.transfer.job import transfer_resolved
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings

from .files import NOISE, RANK, spread, write_lora

FIRST = TransferSettings("full")
TURNED: Mapping[str, TransferSettings] = {
    "another threshold": replace(FIRST, threshold=0.6),
    "a threshold that leaves all behind": replace(FIRST, threshold=1.0),
    "rank 8": replace(FIRST, rank=8),
    "mode `prolora`": replace(FIRST, mode="prolora"),
    "mode `subspace`": replace(FIRST, mode="subspace"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modules", type=int, default=24, help="0 for all")
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one else")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    unet = unet_lora_modules(SDXL)
    modules = spread(unet, options.modules)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        lora = Path(folder) / "lora.safetensors"
        write_lora(modules, lora)
        source, target = (_model(name, modules, Path(folder)) for name in ("source", "target"))
        job = resolve(read_adapter_file(lora), source), target
        kept = Kept()

        def run(settings: TransferSettings, kept: Forgetful) -> float:
            start = time.perf_counter()
            transfer_resolved(*job, replace(settings, device=options.device), kept=kept)
            return time.perf_counter() - start

        afresh, first = run(FIRST, NOTHING_KEPT), run(FIRST, kept)
        print(f"{len(modules)} modules of {len(unet)}, {options.device}")
        print("| | nothing kept | kept | ratio |\n| --- | --- | --- | --- |")
        print(f"| the first run | {afresh:.1f} s | {first:.1f} s | {afresh / first:.1f} |")
        for name, settings in TURNED.items():
            again = run(settings, kept)
            afresh = run(settings, NOTHING_KEPT)
            print(f"| {name} | {afresh:.1f} s | {again:.2f} s | {afresh / again:.0f} |", flush=True)
        columns = sum(2 * RANK * (m.m + m.n) * 4 for m in unet)
        print(f"held {kept.held / 1e6:.0f} MB; columns of all {len(unet)}: {columns / 1e6:.0f} MB")


def _model(name: str, modules: list[LoraModule], folder: Path) -> Model:
    """A file of these weights, as a model."""
    path = folder / f"{name}.safetensors"
    tensors = {}
    for i, module in enumerate(modules):
        random = torch.Generator().manual_seed(i)
        weight = torch.randn(module.m, module.n, generator=random)
        if name == "target":
            weight += NOISE * torch.randn(module.m, module.n, generator=random)
        tensors[f"{module.name}.weight"] = (weight * module.n**-0.5).half()
    save_file(tensors, path)
    names = {module.name: WeightRef(f"{module.name}.weight") for module in modules}
    return Model(name, "SDXL", SafetensorsWeights(path), names)


if __name__ == "__main__":
    main()
