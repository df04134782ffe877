"""A node that only the host tests use: shows a text, as no core node does in June 2024."""


class ProbeText:
    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ()
    FUNCTION = "probe"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"forceInput": True})}}

    def probe(self, text):
        return {"ui": {"text": [text]}}


NODE_CLASS_MAPPINGS = {"ProbeText": ProbeText}
