"""Nodes that only the host tests use: what a model and a LoRA are together, weight by weight."""

import json

import comfy.lora
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


NODE_CLASS_MAPPINGS = {"ProbeBecomes": ProbeBecomes}
