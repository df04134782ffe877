"""ProLoRA Transfer: moves a source LoRA to the MODEL that is loaded in the graph."""

from ..prolora.errors import ProLoRAError, bullets
from ..prolora.naming.output_names import rename
from ..prolora.pairing.block_pairs import parse_pairs
from ..prolora.recording.calibrated import transfer_recorded
from ..prolora.transfer.job import transfer_resolved
from ..prolora.transfer.modes import CALIBRATED, MODES, describe_modes, mode_named
from ..prolora.transfer.report_text import summary_of, warning_of
from ..prolora.transfer.settings import DEFAULTS, TransferSettings
from . import host
from .shared_inputs import ENERGY_INPUT, PAIRS_INPUT
from .transferred_lora import TransferredLora


class ProLoraTransfer:
    CATEGORY = "loaders/ProLoRA"
    DESCRIPTION = (
        "Moves a LoRA to another checkpoint of the family, by the weights of the two checkpoints "
        "alone (ProLoRA, ICML 2025), or by a recording of the source as well."
    )
    RETURN_TYPES = ("LORA_MODEL", "STRING")
    RETURN_NAMES = ("lora", "summary")
    OUTPUT_TOOLTIPS = ("The LoRA for this model.", "What was moved, what stayed behind, and why.")
    FUNCTION = "transfer"

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
                "threshold": (
                    "FLOAT",
                    {
                        "default": DEFAULTS.threshold,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "A module is left out if the similarity of its two weights is "
                        "below this. 0 moves every module.",
                    },
                ),
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
                "mode": (
                    list(MODES),
                    {
                        "default": DEFAULTS.mode,
                        "advanced": True,
                        "tooltip": describe_modes(),
                    },
                ),
                **ENERGY_INPUT,
            },
            "optional": {
                "clip": (
                    "CLIP",
                    {"tooltip": "Connect it to move the LoRA's text encoder modules too."},
                ),
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
                        "tooltip": "What the source said of the LoRA, from Record Source LoRA or "
                        "Load Recording. With it the LoRA is calibrated to what this model's "
                        "layers are given, which needs the model to run (modes auto and "
                        "calibrated)."
                    },
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, mode=None):
        """Checks `mode` in the host's place: a saved graph may hold the former name of a mode."""
        if mode is None:  # a link gives it
            return True
        try:
            mode_named(mode)
        except ProLoRAError as error:
            return str(error)
        return True

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
        recording=None,
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
        job = source_lora, target, settings
        if recording is None:
            result = transfer_resolved(*job, host.Progress())
        else:
            result = self.calibrated(job, recording, model, clip)
        named = rename(result.contents, target.key_map, target.architecture)
        lora = TransferredLora.of(
            named.adapters, named.style, result.metadata(), target, result.report
        )
        summary = "\n".join((summary_of(result.report), *bullets(named.notes)))
        host.say(summary, warning=bool(warning_of(result.report)))
        return {"ui": {"text": [summary]}, "result": (lora, summary)}

    @staticmethod
    def calibrated(job, recording, model, clip):
        source_lora, target, settings = job
        bare = host.without_loras(model)
        if settings.settled(recorded=True).mode == CALIBRATED:
            recording.check_latents(*host.latent_format(bare), target.name)
        text = None if clip is None else host.text_network_of(host.clip_without_loras(clip))
        network = host.network_of(bare)
        with host.memory_explained():
            return transfer_recorded(
                source_lora, target, recording, network, settings, host.Progress(), text
            )
