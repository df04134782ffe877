"""A transfer of a LoRA for a layer of each kind, any part of which a test may exchange."""

from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .small_models import SHAPES, drifted, file_of, model_of, random_lora, random_weight

WEIGHTS = {kind: random_weight(shape, seed) for seed, (kind, shape) in enumerate(SHAPES.items())}
DRIFTED = {kind: drifted(weight) for kind, weight in WEIGHTS.items()}
FILE = file_of(*(random_lora(kind, shape) for kind, shape in SHAPES.items()))
LOW = TransferSettings("full", threshold=0.1)


def run(file=FILE, source=WEIGHTS, target=DRIFTED, settings=LOW, **more):
    return transfer_lora(file, model_of("A", source), model_of("B", target), settings, **more)
