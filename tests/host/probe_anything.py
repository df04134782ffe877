"""Nodes that take part in any link, as those that switch between links do."""

import json

import comfy.model_management as management


class _Anything(str):
    __hash__ = str.__hash__

    def __ne__(self, other):
        return False


class ProbeAnything:
    """Gives what its text says, for any input."""

    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = (_Anything("*"),)
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": "null"})}}

    def give(self, text):
        return (json.loads(text),)


class ProbeUnload:
    """Gives what it is given, and does to the loaded models what else happens between two nodes.

    `how`: nothing, unload, free (what needs room), or load (patched).
    """

    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = (_Anything("*"),)
    FUNCTION = "disturb"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"given": (_Anything("*"),), "how": ("STRING", {"default": "nothing"})},
            "optional": {"model": ("MODEL",)},
        }

    def disturb(self, given, how, model=None):
        if how == "unload":
            management.unload_all_models()
            management.soft_empty_cache()
        elif how == "free":
            management.free_memory(1e30, management.get_torch_device())
            management.cleanup_models()
        elif how == "load":
            management.load_models_gpu([model])
        return (given,)


NODE_CLASS_MAPPINGS = {"ProbeAnything": ProbeAnything, "ProbeUnload": ProbeUnload}
