"""Nodes that make, show and apply a LORA_STACK as other packs' nodes do."""

import json

import comfy.sd
import comfy.utils
import folder_paths


class ProbeMakeStack:
    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ("LORA_STACK",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        strength = ("FLOAT", {"min": -10.0, "max": 10.0})
        return {
            "required": {
                "lora_name": (["None", *folder_paths.get_filename_list("loras")],),
                "model_weight": strength,
                "clip_weight": strength,
            },
            "optional": {"lora_stack": ("LORA_STACK",)},
        }

    def make(self, lora_name, model_weight, clip_weight, lora_stack=()):
        return ([*lora_stack, (lora_name, model_weight, clip_weight)],)


class ProbeStack:
    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"lora_stack": ("LORA_STACK",)}}

    def show(self, lora_stack):
        assert all(type(entry) is tuple for entry in lora_stack)
        return {"ui": {"text": [json.dumps(lora_stack)]}}


class ProbeApplyStack:
    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "lora_stack": ("LORA_STACK",)}}

    def apply(self, model, lora_stack):
        for name, strength, _ in lora_stack:
            path = folder_paths.get_full_path("loras", name)
            lora = comfy.utils.load_torch_file(path, safe_load=True)
            model, _ = comfy.sd.load_lora_for_models(model, None, lora, strength, 0)
        return (model,)


NODE_CLASS_MAPPINGS = {
    "ProbeMakeStack": ProbeMakeStack,
    "ProbeStack": ProbeStack,
    "ProbeApplyStack": ProbeApplyStack,
}
