"""ProLoRA Similarity: measures the similarity of two models before anything is moved."""

from ..prolora.comparison import text as comparison_text
from ..prolora.comparison.figures import compare
from ..prolora.comparison.heat_map import check_pillow, draw
from ..prolora.pairing.block_pairs import parse_pairs, write_pairs
from ..prolora.transfer.settings import TransferSettings
from . import host
from .files_seen import ReadsFiles
from .shared_inputs import ENERGY_INPUT, PAIRS_INPUT
from .source_model import SOURCE_INPUTS, checkpoint_input, chosen_source, loaded_model


class ProLoraSimilarity(ReadsFiles):
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = (
        "compare checkpoints",
        "compare models",
        "similar models",
        "model difference",
        "subspace",
    )
    DESCRIPTION = (
        "Measures the similarity of two models, weight by weight: how much of a LoRA a transfer "
        "between them can keep. Every weight is decomposed, which takes minutes without a GPU."
    )
    RETURN_TYPES = ("IMAGE", "STRING", "STRING")
    RETURN_NAMES = ("picture", "table", "pairs")
    OUTPUT_TOOLTIPS = (
        "A line for each block, a column for each module; the brighter, the more similar.",
        "The figures as text, a line for each weight.",
        "Which block takes which, for the pairs input of ProLoRA Transfer.",
    )
    FUNCTION = "compare"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": (
                    "MODEL",
                    {"tooltip": "The model to compare with the source, without its LoRAs."},
                ),
                "source_checkpoint": checkpoint_input(
                    "The checkpoint that LoRAs were trained on. It is not loaded: its weights are "
                    "read one at a time."
                ),
                **ENERGY_INPUT,
            },
            "optional": {
                "clip": ("CLIP", {"tooltip": "Connect it to compare text encoders too."}),
                **SOURCE_INPUTS,
                **PAIRS_INPUT,
            },
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    def compare(
        self,
        model,
        source_checkpoint,
        subspace_energy,
        clip=None,
        source_model=None,
        source_clip=None,
        pairs="",
        unique_id="",
        prompt=None,
    ):
        check_pillow()
        settings = TransferSettings(
            subspace_energy=subspace_energy, device=host.device(), pairs=parse_pairs(pairs)
        )
        source = chosen_source(source_checkpoint, source_model, source_clip, unique_id, prompt)
        target = loaded_model(model, clip, unique_id, prompt)
        host.make_room(target.key_map, target)
        found = compare(source, target, settings, host.Progress())
        summary, picture = comparison_text.summary(found), draw(found).image
        summary = host.say(summary)
        result = (host.as_image(picture), comparison_text.table(found), write_pairs(found.pairs))
        return {"ui": {"text": [summary]}, "result": result}
