"""Nodes that only the host tests use: what a model and a LoRA are together, weight by weight."""

import json

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.utils


class ProbeBecomes:
    """How far each weight of a model is from another model's, without its patches and with them."""

    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ()
    FUNCTION = "probe"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        types = {"model": ("MODEL",), "tuned": ("MODEL",)}
        return {"required": types, "optional": {"clip": ("CLIP",), "tuned_clip": ("CLIP",)}}

    def probe(self, model, tuned, clip=None, tuned_clip=None):
        result = self.compare(model, tuned)
        if clip is not None:
            result |= self.compare(clip.patcher, tuned_clip.patcher)
        return {"ui": {"text": [json.dumps(result)]}}

    @classmethod
    def compare(cls, one, other):
        result = {}
        for key in one.model.state_dict():
            base, wanted = (cls.value(patcher, key) for patcher in (one, other))
            if base is None or not base.is_floating_point():
                continue
            base, wanted = base.float(), wanted.float()
            if key in one.backup:  # what is loaded and patched in place
                base = getattr(one.backup[key], "weight", one.backup[key]).float()
            got = cls.patched(one, key, base.clone())
            change = float((wanted - base).norm())
            result[key] = {
                "change": change / float(base.norm()) if base.norm() > 0 else change,
                "off": float((got - wanted).norm()) / change
                if change
                else float((got != base).any()),
            }
        return result

    @staticmethod
    def value(patcher, key):
        try:
            return comfy.utils.get_attr(patcher.model, key)
        except AttributeError:  # the state dict alone has it
            return None

    @staticmethod
    def patched(patcher, key, weight):
        # In June 2024 it was a method.
        calculate = getattr(comfy.lora, "calculate_weight", None) or patcher.calculate_weight
        return calculate(patcher.patches[key], weight, key) if key in patcher.patches else weight


class ProbeDynamic:
    """A MODEL as 0.33.0's dynamic VRAM loader leaves it, which needs a GPU to run by itself.

    ModelPatcherDynamic.load patches layers of up to 16 KB in place and leaves the others unpatched,
    to be patched when they are used; it marks none as patched. The parameters of modules that are
    no layers of the host's own, it does not patch. Here the host's usual loader patches all of
    them, and what the other one would not have done is undone.
    """

    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "probe"
    SMALL = 16 * 1024

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def probe(self, model):
        if not hasattr(comfy.model_patcher, "ModelPatcherDynamic"):
            raise RuntimeError("this host has no dynamic loader")
        comfy.model_management.load_models_gpu([model])
        for name, module in model.model.named_modules():
            is_layer = hasattr(module, "comfy_cast_weights")
            is_small = comfy.model_management.module_size(module) <= self.SMALL
            if hasattr(module, "comfy_patched_weights"):
                module.comfy_patched_weights = False
            if not (is_layer and is_small):
                self.unpatch(model, name, module)
        return (model,)

    @staticmethod
    def unpatch(model, name, module):
        for part, _ in module.named_parameters(recurse=False):
            kept = model.backup.pop(f"{name}.{part}", None)
            if kept is not None:
                comfy.utils.set_attr_param(model.model, f"{name}.{part}", kept.weight)


NODE_CLASS_MAPPINGS = {"ProbeBecomes": ProbeBecomes, "ProbeDynamic": ProbeDynamic}
