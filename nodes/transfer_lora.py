"""ProLoRA Transfer: moves a source LoRA to the MODEL that is loaded in the graph."""

from dataclasses import replace

from ..prolora.errors import ProLoRAError
from ..prolora.pairing.block_pairs import parse_pairs
from ..prolora.transfer.modes import mode_named
from ..prolora.transfer.settings import DEFAULTS, TransferSettings
from . import host
from .moving import Move, move_all
from .shared_inputs import (
    CLIP_INPUT,
    ENERGY_INPUT,
    MODE_INPUT,
    PAIRS_INPUT,
    SHARE_INPUT,
    THRESHOLD,
)
from .source_model import loaded_model


class ProLoraTransfer:
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = (
        "move LoRA",
        "port LoRA",
        "convert LoRA",
        "migrate LoRA",
        "retarget LoRA",
        "adapt LoRA",
        "transfer LoRA",
        "another checkpoint",
        "base model",
        "SSD-1B",
        "LoRA-X",
    )
    DESCRIPTION = (
        "Moves a LoRA to another checkpoint of the family, by the weights of the two checkpoints "
        "alone (ProLoRA, ICML 2025), or by a recording of the source as well."
    )
    RETURN_TYPES = ("LORA_MODEL", "STRING")
    RETURN_NAMES = ("lora", "summary")
    OUTPUT_TOOLTIPS = ("The LoRA for this model.", "What was moved, what stayed behind, and why.")
    FUNCTION = "transfer"
    # Given a list of LoRAs, what is found of the two models serves all of them.
    INPUT_IS_LIST = True
    OUTPUT_IS_LIST = (True, True)

    def __init__(self):
        self.kept = host.kept()

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "source_lora": ("PROLORA_SOURCE", {"tooltip": "From Load Source LoRA."}),
                "model": (
                    "MODEL",
                    {
                        "tooltip": "The model that the LoRA is moved to. It is not changed. LoRAs "
                        "that patch it do not count."
                    },
                ),
                "threshold": ("FLOAT", THRESHOLD),
                "rank": (
                    "INT",
                    {
                        "default": DEFAULTS.rank,
                        "min": 0,
                        "max": 16384,
                        "tooltip": "Rank of the result. 0 keeps the rank of the source LoRA; a "
                        "LoHa, LoKr or the like gets the smallest rank that keeps 99 % of it. "
                        "Parts of a fused weight (q, k, v) have it each, and their ranks add up.",
                    },
                ),
                **MODE_INPUT,
                **ENERGY_INPUT,
            },
            "optional": {
                **CLIP_INPUT,
                "copy_identical": (
                    "BOOLEAN",
                    {
                        "default": DEFAULTS.copy_identical,
                        "advanced": True,
                        "tooltip": "Copy the LoRA's module where both models have the same "
                        "weight, which is exact and faster.",
                    },
                ),
                **PAIRS_INPUT,
                "recording": (
                    "PROLORA_RECORDING",
                    {
                        "tooltip": "A recording of this LoRA, from Record Source LoRA or Load "
                        "Recording. With it the LoRA is calibrated to what the layers of this "
                        "model read, for which the model is run (modes auto and calibrated)."
                    },
                ),
                **SHARE_INPUT,
            },
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, mode=()):
        """Checks `mode` in the host's place: a saved graph may hold the former name of a mode."""
        try:
            for name in mode:
                if name is not None:  # a link gives it
                    mode_named(str(name))
        except ProLoRAError as error:
            return str(error)
        return True

    def transfer(self, **lists):
        targets = {}
        moves = [self._move(targets, **given) for given in host.zipped(lists)]
        if len(moves) > 1:
            moves = [replace(move, label=move.lora.file.name) for move in moves]
        moved = move_all(moves, self.kept)
        loras = [one.lora for one in moved]
        summaries = [host.say(one.summary, bool(one.warning)) for one in moved]
        return {"ui": {"text": summaries}, "result": (loras, summaries)}

    def _move(
        self,
        targets,
        source_lora,
        model,
        threshold,
        rank,
        mode,
        subspace_energy,
        clip=None,
        copy_identical=True,
        pairs="",
        recording=None,
        unserved=DEFAULTS.unserved,
        unique_id="",
        prompt=None,
    ):
        settings = TransferSettings(
            mode=mode,
            threshold=threshold,
            subspace_energy=subspace_energy,
            rank=rank,
            copy_identical=copy_identical,
            device=host.device(),
            pairs=parse_pairs(pairs),
            unserved=unserved,
        )
        loaded = id(model), id(clip)
        if loaded not in targets:
            targets[loaded] = loaded_model(model, clip, unique_id, prompt)
        return Move(source_lora, targets[loaded], model, clip, settings, recording)
