"""Extract Difference as LoRA: what makes one model of another, as a LoRA."""

from ..prolora.extraction.extract import extract_difference
from ..prolora.extraction.settings import EXTRACTION_DEFAULTS, ExtractionSettings
from ..prolora.extraction.text import summary_of
from . import host
from .files_seen import ReadsFiles
from .source_model import checkpoint_input, chosen_source
from .transferred_lora import lora_of


class ExtractDifference(ReadsFiles):
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = (
        "extract LoRA",
        "LoRA from checkpoint",
        "subtract models",
        "model difference",
        "accelerator",
        "distilled model",
    )
    DESCRIPTION = (
        "The difference of two models as a LoRA for the first: base + LoRA is the tuned model, as "
        "far as the rank goes. Of a distilled model and its base it is the accelerator. Every "
        "weight is decomposed, which takes minutes without a GPU."
    )
    RETURN_TYPES = ("LORA_MODEL", "STRING")
    RETURN_NAMES = ("lora", "summary")
    OUTPUT_TOOLTIPS = (
        "The LoRA, for the base: connect it to Apply or Save Transferred LoRA.",
        "What was extracted, how much of the difference it keeps, and what was left out.",
    )
    FUNCTION = "extract"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "base_checkpoint": checkpoint_input(
                    "The model that the LoRA is for. It is not loaded: its weights are read one at "
                    "a time.",
                    side="base",
                ),
                "tuned_checkpoint": checkpoint_input(
                    "The model that base and LoRA become: one that was trained, distilled or "
                    "merged from the base. It is not loaded either.",
                    side="tuned",
                ),
                "rank": (
                    "INT",
                    {
                        "default": EXTRACTION_DEFAULTS.rank,
                        "min": 0,
                        "max": 16384,
                        "tooltip": "The largest rank of a module; 0 sets no limit. Twice the rank "
                        "is twice the file.",
                    },
                ),
                "energy": (
                    "FLOAT",
                    {
                        "default": EXTRACTION_DEFAULTS.energy,
                        "min": 0.01,
                        "max": 1.0,
                        "step": 0.001,
                        "tooltip": "The share of each module's difference that is enough: where a "
                        "smaller rank keeps it, that rank is taken. 1: the rank alone counts.",
                    },
                ),
                "least": (
                    "FLOAT",
                    {
                        "default": EXTRACTION_DEFAULTS.least,
                        "min": 0.0,
                        "max": 0.5,
                        "step": 0.0001,
                        "round": False,
                        "advanced": True,
                        "tooltip": "Modules whose difference is smaller than this share of the "
                        "weight are left out. 0 leaves out those alone that are identical or "
                        "differ by rounding.",
                    },
                ),
            },
            "optional": {
                "base_model": (
                    "MODEL",
                    {
                        "tooltip": "Used instead of base_checkpoint when it is connected. LoRAs "
                        "and merges that patch it do not count."
                    },
                ),
                "base_clip": ("CLIP", {"tooltip": "The text encoder that belongs to base_model."}),
                "tuned_model": (
                    "MODEL",
                    {
                        "tooltip": "Used instead of tuned_checkpoint when it is connected. LoRAs "
                        "and merges that patch it do not count."
                    },
                ),
                "tuned_clip": (
                    "CLIP",
                    {"tooltip": "The text encoder that belongs to tuned_model."},
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    def extract(
        self,
        base_checkpoint,
        tuned_checkpoint,
        rank,
        energy,
        least,
        base_model=None,
        base_clip=None,
        tuned_model=None,
        tuned_clip=None,
        unique_id="",
        prompt=None,
    ):
        settings = ExtractionSettings(rank, energy, least, host.device())
        graph = {"unique_id": unique_id, "prompt": prompt}
        base = chosen_source(base_checkpoint, base_model, base_clip, **graph, side="base")
        tuned = chosen_source(tuned_checkpoint, tuned_model, tuned_clip, **graph, side="tuned")
        host.make_room(base.key_map, base)
        result = extract_difference(base, tuned, settings, host.Progress())
        lora, summary = lora_of(result, base, summary_of(result))
        summary = host.say(summary)
        return {"ui": {"text": [summary]}, "result": (lora, summary)}
