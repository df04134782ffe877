"""A node that only the host tests use: it stands in for a text encoder."""

import torch

TOKENS = 4


class ProbeConditioning:
    """Random text of the widths that a model takes; `pooled` is 0 for a model that takes none."""

    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls):
        width = ("INT", {"default": 0, "min": 0, "max": 65536})
        return {"required": {"context": width, "pooled": width}}

    def encode(self, context, pooled):
        random = torch.Generator().manual_seed(0)
        extra = {"attention_mask": torch.ones(1, TOKENS, dtype=torch.long)}  # LTX-Video asks for it
        if pooled:
            extra["pooled_output"] = torch.randn(1, pooled, generator=random)
        return ([[torch.randn(1, TOKENS, context, generator=random), extra]],)


NODE_CLASS_MAPPINGS = {"ProbeConditioning": ProbeConditioning}
