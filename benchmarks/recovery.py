"""Whether the alignment finds the blocks that pruned children of SDXL have kept, at full shapes.

    python -m benchmarks.recovery
    python -m benchmarks.recovery --child ssd-1b --drift 0.3
    python -m benchmarks.recovery --width 160             # half of SDXL's, a fifth of the time
    python -m benchmarks.recovery --threads 1             # where the machine does other work, too
    python -m benchmarks.recovery --device cuda

Run it in the repository's root. The models are made up, with the names and shapes of SDXL and its
children. Every weight is made whenever it is read, so none is kept (fixtures/children.py says what
is real in them and what is not). It prints a row for each child and drift:

- *in doubt*: the blocks in lists that have another length in SDXL; the others are paired by name.
- *right*: how many of those are paired with the block that they are; then how many would be so by
  their names, and by their depth in the list.
- *similarity*: of transformer blocks, the lowest of a right pair and the highest of a wrong pair in
  the same transformer.
- *time*: that of the pairing + that of making the weights.
- *peak*: of the process's resident memory, or of the GPU's memory.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import mean

import torch

from fixtures import children
from fixtures import stable_diffusion as sd
from fixtures.children import CHILDREN, Child, ChildWeights, MadeUpWeights
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.pairing.alignment import align
from prolora.pairing.block_similarity import RandomizedBlockSimilarity
from prolora.pairing.module_tree import Node, module_tree

from .machine import environment, wait

DRIFTS = (0.02, 0.1, 0.3)


def main() -> None:
    """Prints a row for each child and drift."""
    options = _options()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    print(f"{environment(device)}, width {options.width}\n")
    print("| child | drift | in doubt | right | by name | by depth | similarity | time | peak |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for child in CHILDREN:
        for drift in options.drift:
            if options.child in ("", child.inventory):
                print(_row(child, drift, options.width, device), flush=True)


class TimedWeights:
    """Weights that time their reading."""

    def __init__(self, weights: MadeUpWeights | ChildWeights, device: torch.device) -> None:
        self._weights, self._device = weights, device
        self.seconds = 0.0

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __contains__(self, key: object) -> bool:
        return key in self._weights

    def shape(self, key: str) -> sd.Shape:
        return self._weights.shape(key)

    def read(self, key: str) -> torch.Tensor:
        wait(self._device)
        start = time.perf_counter()
        weight = self._weights.read(key)
        wait(self._device)
        self.seconds += time.perf_counter() - start
        return weight


def _row(child: Child, drift: float, width: int, device: torch.device) -> str:
    origins = children.origins(child, children.any_of)
    parent = MadeUpWeights(sd.unet(sd.SDXL.narrowed(width)), str(device))
    shapes = sd.unet(child.figures.narrowed(width))
    weights = ChildWeights(parent, shapes, origins, drift, str(device))
    source, target = (
        _model(name, TimedWeights(w, device)) for name, w in (("SDXL", parent), ("child", weights))
    )
    trees = module_tree(source), module_tree(target)
    similarity = RandomizedBlockSimilarity(source, target, device)
    start = time.perf_counter()
    found = align(*trees, similarity)
    seconds = time.perf_counter() - start
    making = source.weights.seconds + target.weights.seconds
    truth, doubtful = children.block_origins(origins), children.unsettled(origins)
    positions = children.at_the_same_depth(origins)
    similarities = _similarities(*trees, {path: truth[path] for path in doubtful}, similarity)
    cells = (
        child.inventory,
        f"{drift:g}",
        f"{len(doubtful)} of {len(truth)}",
        f"**{sum((found.pairs.get(path) or '') == truth[path] for path in doubtful)}**",
        str(sum(path == truth[path] for path in doubtful)),
        str(sum(positions[path] == truth[path] for path in doubtful)),
        f"{similarities.right:.2f}, {similarities.wrong:.2f}",
        f"{seconds - making:.0f} s + {making:.0f} s",
        f"{_peak(device) / 1e9:.2f} GB",
    )
    return f"| {' | '.join(cells)} |"


def _model(name: str, weights: TimedWeights) -> Model:
    matrices = [k for k in weights if k.endswith(".weight") and len(weights.shape(k)) >= 2]
    names = {key.removesuffix(".weight"): WeightRef(key) for key in matrices}
    return Model(name, "SDXL", weights, names)


@dataclass(frozen=True)
class Similarities:
    """The lowest similarity of the right pairs, and the highest of the wrong pairs."""

    right: float
    wrong: float


def _similarities(
    source: Node, target: Node, truth: Mapping[str, str], similarity: RandomizedBlockSimilarity
) -> Similarities:
    right, wrong = [], []
    for path, origin in truth.items():
        stage, _, name = origin.rpartition(".")
        if not stage.endswith("transformer_blocks"):
            continue
        block, entries = target.at(path), source.at(stage).entries
        for number, rival in entries.items():
            modules = [module.strip(".") for module in block.matrix_shapes()]
            values = [similarity(rival.at(module), block.at(module)) for module in modules]
            (right if number == int(name) else wrong).append(mean(values))
    return Similarities(min(right), max(wrong))


def _peak(device: torch.device) -> int:
    """In bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="pairing the blocks of pruned SDXLs")
    names = [child.inventory for child in CHILDREN]
    parser.add_argument("--child", default="", choices=["", *names], help="one of them (all)")
    parser.add_argument("--drift", type=float, nargs="+", default=DRIFTS, help="(0.02 0.1 0.3)")
    parser.add_argument("--width", type=int, default=320, help="channels; SDXL's are 320 (320)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (cpu)")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU (torch's choice)")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
