"""Nodes that only the host tests use: one shows a text, as no core node does in June 2024."""


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


class AnyType(str):
    """The type of an output that packs connect to every input, a list of choices too."""

    def __ne__(self, other):
        return False


class ProbeName:
    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = (AnyType("*"),)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {})}}

    def give(self, name):
        return (name,)


NODE_CLASS_MAPPINGS = {"ProbeText": ProbeText, "ProbeName": ProbeName}
