"""Refine Transferred LoRA: a few steps towards what the source answers with its LoRA."""

from ..prolora.adapters import VectorPatch, lora_state_dict
from ..prolora.adapters.accelerators import ACCELERATOR_KEY, advise_refining
from ..prolora.models.module_names import is_text_encoder
from ..prolora.naming.output_names import rename
from ..prolora.recording.plot import draw_losses
from ..prolora.recording.refine import RefineSettings, refine
from ..prolora.recording.student import left_out
from ..prolora.recording.text import describe_refined
from ..prolora.transfer.assemble import LORA_DIGEST
from . import host
from .source_model import loaded_model
from .transferred_lora import TransferredLora, parts_of, renamed

DEFAULTS = RefineSettings()


class RefineTransferredLora:
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = (
        "train LoRA",
        "fine-tune LoRA",
        "distil LoRA",
        "refine LoRA",
        "calibrate LoRA",
        "Turbo",
        "Lightning",
    )
    DESCRIPTION = (
        "Corrects a transferred LoRA by a few steps of training, until the model answers as the "
        "source did in the recording. No pictures are needed. The result is never worse than what "
        "came in, on a part of the recording that is kept apart."
    )
    RETURN_TYPES = ("LORA_MODEL", "STRING", "IMAGE")
    RETURN_NAMES = ("lora", "info", "plot")
    OUTPUT_TOOLTIPS = (
        "The refined LoRA.",
        "The loss before and after, and what was not refined.",
        "The loss of every step.",
    )
    FUNCTION = "refine"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": (
                    "MODEL",
                    {
                        "tooltip": "The model that the LoRA was moved to. It is not "
                        "changed. LoRAs that patch it do not count."
                    },
                ),
                "lora": ("LORA_MODEL", {"tooltip": "From ProLoRA Transfer."}),
                "recording": (
                    "PROLORA_RECORDING",
                    {"tooltip": "From Record Source LoRA or Load Recording."},
                ),
                "steps": (
                    "INT",
                    {
                        "default": DEFAULTS.steps,
                        "min": 0,
                        "max": 10000,
                        "tooltip": "A step takes as long as a step of training. The best state on "
                        "the way is taken.",
                    },
                ),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**63 - 2,
                        "tooltip": "Which latents come when, and which are kept apart.",
                    },
                ),
                "batch": (
                    "INT",
                    {
                        "default": DEFAULTS.batch,
                        "min": 1,
                        "max": 1024,
                        "advanced": True,
                        "tooltip": "How many latents a step learns from. It costs time, not "
                        "memory.",
                    },
                ),
                "rate": (
                    "FLOAT",
                    {
                        "default": DEFAULTS.rate,
                        "min": 0.0001,
                        "max": 0.9,
                        "step": 0.0001,
                        "round": 0.0001,
                        "advanced": True,
                        "tooltip": "How far a step goes, as a share of the LoRA's own size.",
                    },
                ),
                "own": (
                    "FLOAT",
                    {
                        "default": DEFAULTS.own,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "advanced": True,
                        "tooltip": "How much is kept of what this model does otherwise than the "
                        "source. 0 learns to answer as the source does, its pictures and all; 1 is "
                        "best for an accelerator (LCM, Lightning ...).",
                    },
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    def refine(
        self, model, lora, recording, steps, seed, batch, rate, own, unique_id="", prompt=None
    ):
        parts = parts_of(lora, "Connect the LoRA of ProLoRA Transfer.")
        bare = host.without_loras(model)
        target = loaded_model(bare, None, unique_id, prompt)
        recording.check_latents(*host.latent_format(bare), target.name)
        notes = [*self.check_lora(lora, recording), *self.advise(lora, own)]
        settings = RefineSettings(steps, batch, rate, own, seed)
        adapters = [part for part in parts if not isinstance(part, VectorPatch)]
        patched = self.with_rest(bare, target, parts)
        shape = (1, *recording.latents.shape[1:])
        with host.trainable(bare, shape), host.trainable(patched, shape):
            refined = refine(
                adapters,
                target,
                host.network_of(patched),
                recording,
                settings,
                host.Progress(),
                bare=None if patched is bare else host.network_of(bare),
            )
        info = "\n".join((describe_refined(refined), *notes))
        info = host.say(info)
        made = self.written(refined, parts, lora, target) if refined.best else lora
        plot = host.as_image(draw_losses(refined))
        return {"ui": {"text": [info]}, "result": (made, info, plot)}

    @staticmethod
    def check_lora(lora, recording):
        """What to say of a LoRA whose file does not tell what it was transferred from.

        Raises:
            ProLoRAError: it does, and the recording is of another.
        """
        metadata = getattr(lora, "metadata", {})
        if LORA_DIGEST not in metadata:
            return [
                "- this LORA_MODEL does not come from ProLoRA Transfer, so it could not be checked "
                "whether the recording is of this LoRA"
            ]
        recording.check_lora(metadata[LORA_DIGEST], metadata.get("prolora_lora", "the LoRA"))
        return []

    @staticmethod
    def advise(lora, own):
        """What to say of an accelerator that would bring the source's pictures along."""
        accelerator = getattr(lora, "metadata", {}).get(ACCELERATOR_KEY)
        return [f"- {advise_refining(accelerator)}"] if accelerator and own < 1 else []

    @staticmethod
    def with_rest(bare, target, parts):
        """The MODEL with what of the LoRA is not refined; the MODEL itself if all of it is.

        Without it, what is refined would learn to replace it.
        """
        adapters = [part for part in parts if not isinstance(part, VectorPatch)]
        apart = left_out(tuple(adapters), target, host.network_of(bare).layers)
        rest = [
            part
            for part in parts
            if (isinstance(part, VectorPatch) or part.name in apart)
            and not is_text_encoder(part.name)
            and target.resolve(part.name) is not None
        ]
        if not rest:
            return bare
        named = rename(rest, target.key_map, target.architecture, "comfyui").adapters
        return host.apply_lora(bare, None, lora_state_dict(named), 1.0, 0.0)[0]

    @staticmethod
    def written(refined, parts, lora, target):
        patches = [part for part in parts if isinstance(part, VectorPatch)]
        named = renamed(lora, (*refined.adapters, *patches), "auto")
        losses = (refined.held_out[0][1], dict(refined.held_out)[refined.best])
        metadata = {
            **getattr(lora, "metadata", {}),
            "prolora_refined_steps": str(refined.best),
            "prolora_refined_loss": " to ".join(f"{loss:.4g}" for loss in losses),
        }
        of = lora if isinstance(lora, TransferredLora) else target
        report = getattr(lora, "report", None)
        return TransferredLora.of(named.adapters, named.style, metadata, of, report)
