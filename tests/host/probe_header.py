"""A node that only the host tests use: the header that a host keeps with a patched MODEL."""

import json


class ProbeHeader:
    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ()
    FUNCTION = "probe"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def probe(self, model):
        kept = getattr(model, "attachments", {}).get("lora_metadata")
        return {"ui": {"text": [json.dumps(kept)]}}


NODE_CLASS_MAPPINGS = {"ProbeHeader": ProbeHeader}
