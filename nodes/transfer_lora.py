"""ProLoRA Transfer: moves a source LoRA to the MODEL that is loaded in the graph."""

from collections.abc import Mapping

from ..prolora.adapters import lora_state_dict
from ..prolora.models.model import Model
from ..prolora.models.references import WeightRef
from ..prolora.naming.output_names import rename
from ..prolora.pairing.block_pairs import parse_pairs
from ..prolora.transfer.job import transfer
from ..prolora.transfer.settings import MODES, TransferSettings
from . import host
from .pairs_input import PAIRS_INPUT


class TransferredLora(dict):
    """A LoRA state dict, the host's own LORA_MODEL, that also knows where it comes from.

    Attributes:
        metadata: for the header of a file.
        key_map, architecture: of the model that it is for; they give its modules other names.
    """

    metadata: Mapping[str, str]
    key_map: Mapping[str, WeightRef]
    architecture: str

    @classmethod
    def of(cls, adapters, style, metadata, target: Model):
        lora = cls(lora_state_dict(adapters, style=style))
        lora.metadata = metadata
        lora.key_map, lora.architecture = target.key_map, target.architecture
        return lora


class ProLoraTransfer:
    CATEGORY = "loaders/ProLoRA"
    DESCRIPTION = (
        "Moves a LoRA to another checkpoint of the family, from the weights of the two alone "
        "(ProLoRA, ICML 2025)."
    )
    RETURN_TYPES = ("LORA_MODEL", "STRING")
    RETURN_NAMES = ("lora", "summary")
    OUTPUT_TOOLTIPS = ("The LoRA for this model.", "What happened to its modules.")
    FUNCTION = "transfer"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "source_lora": ("PROLORA_SOURCE", {"tooltip": "From Load Source LoRA."}),
                "model": (
                    "MODEL",
                    {
                        "tooltip": "The model the LoRA is moved to. LoRAs that patch it are left "
                        "out of account, and it is not changed."
                    },
                ),
                "threshold": (
                    "FLOAT",
                    {
                        "default": 0.8,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Modules whose two weights are less alike than this are left "
                        "out. 0 moves every module.",
                    },
                ),
                "rank": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 16384,
                        "tooltip": "Rank of the result; 0 keeps that of the source LoRA, and for "
                        "a LoHa, LoKr or the like takes the smallest that keeps 99 % of it.",
                    },
                ),
                "mode": (
                    list(MODES),
                    {
                        "default": "full",
                        "advanced": True,
                        "tooltip": "full: all of the LoRA, each part to its counterpart. prolora: "
                        "the paper's, without the mixed parts. subspace: the leading part only. "
                        "align: full, also between other widths; experimental, mostly needs "
                        "threshold 0. casa: for distilled targets, takes back a part of the "
                        "models' difference; at strength 1 only. copy: as it is, to compare.",
                    },
                ),
                "subspace_energy": (
                    "FLOAT",
                    {
                        "default": 0.8,
                        "min": 0.01,
                        "max": 0.999,
                        "step": 0.01,
                        "advanced": True,
                        "tooltip": "Share of a weight's energy that counts as its leading "
                        "subspace; the rest is its null space.",
                    },
                ),
            },
            "optional": {
                "clip": (
                    "CLIP",
                    {"tooltip": "Connect it to move the LoRA's text encoder modules too."},
                ),
                "copy_identical": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "advanced": True,
                        "tooltip": "Where both models have the same weight, take the LoRA's "
                        "module as it is, which is exact and faster.",
                    },
                ),
                **PAIRS_INPUT,
            },
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    def transfer(
        self,
        source_lora,
        model,
        threshold,
        rank,
        mode,
        subspace_energy,
        clip=None,
        copy_identical=True,
        pairs="",
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
        )
        name = host.file_behind(prompt or {}, unique_id, "model") or "the MODEL of the graph"
        target = host.model_from_graph(model, clip, name)
        host.make_room(source_lora.file.module_names, target)
        result = transfer(source_lora.file, source_lora.model, target, settings, host.Progress())
        named = rename(result.contents, target.key_map, target.architecture)
        lora = TransferredLora.of(named.adapters, named.style, result.metadata(), target)
        summary = "\n  ".join((result.report.summary(), *named.notes))
        host.show(summary, unique_id, result.report.warning)
        return {"ui": {"text": [summary]}, "result": (lora, summary)}
