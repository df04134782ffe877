"""Nodes that only the host tests use: they look into the host from inside."""

import hashlib
import json
import sys

import comfy.lora
import comfy.utils
import torch


def pack_host():
    """The pack's nodes/host/, as the host has loaded it."""
    return next(m for name, m in sys.modules.items() if name.endswith(".nodes.host"))


class Probe:
    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "probe"
    OUTPUT_NODE = True


class ProbeFingerprint(Probe):
    """A checksum of everything that a MODEL is made of, patches and all."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}, "optional": {"after": ("LORA_MODEL",)}}

    def probe(self, model, after=None):
        digest = hashlib.sha256()
        for key, tensor in model.model.state_dict().items():
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        patches = {key: len(value) for key, value in model.patches.items()}
        digest.update(json.dumps(patches, sort_keys=True).encode())
        digest.update(str((model.patches_uuid, sorted(model.model_options))).encode())
        return {"ui": {"text": [digest.hexdigest()]}, "result": (model,)}


class ProbeKeyMap(Probe):
    """Compares a checkpoint that is not loaded (meta device) with the same one, loaded."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"model": ("MODEL",), "file_name": ("STRING", {})},
            "optional": {"clip": ("CLIP",)},
        }

    def probe(self, model, file_name, clip=None):
        host = pack_host()
        from_file = host.model_from_file(host.model_path(file_name))
        loaded = host.model_from_graph(model, clip, "loaded")
        places = {name: ref for name, ref in loaded.key_map.items() if "." in ref.key}
        different = [
            name
            for name, ref in places.items()
            if name in from_file.key_map and not self.same_weight(from_file, loaded, name)
        ]
        result = {
            "names": len(places),
            "architectures": [from_file.architecture, loaded.architecture],
            "missing": sorted(places.keys() - from_file.key_map.keys()),
            "extra": sorted(from_file.key_map.keys() - places.keys()),
            "different": different,
        }
        return {"ui": {"text": [json.dumps(result)]}, "result": (model,)}

    @staticmethod
    def same_weight(a, b, name):
        one, other = a.key_map[name], b.key_map[name]
        if (one.key, one.part) != (other.key, other.part) or a.shape(one) != b.shape(other):
            return False
        return torch.equal(a.weights.read(one.key).float(), b.weights.read(other.key).float())


class ProbeWeights(Probe):
    """How far the weights of a file or MODEL, as a transfer reads them, are from another's."""

    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        names = ("file_name", "reference_file")
        models = ("model", "reference_model")
        files = {name: ("STRING", {}) for name in names}
        return {"required": {}, "optional": files | dict.fromkeys(models, ("MODEL",))}

    def probe(self, file_name="", model=None, reference_file="", reference_model=None):
        read, true = self.weights(file_name, model), self.weights(reference_file, reference_model)
        differences = {}
        for key in true:
            if key.endswith(".weight"):
                want, got = true.read(key).float(), read.read(key).float()
                differences[key] = float((got - want).norm() / want.norm())
        return {"ui": {"text": [json.dumps(differences)]}}

    @staticmethod
    def weights(file_name, model):
        host = pack_host()
        if model is None:
            return host.model_from_file(host.model_path(file_name)).weights
        return host.model_from_graph(model, None, "loaded").weights


class ProbeForms(Probe):
    """The quantised forms that the host loads, as JSON."""

    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def probe(self):
        forms = []
        if hasattr(comfy.utils, "detect_layer_quantization"):  # else there is a table, and no use
            from comfy.quant_ops import QUANT_ALGOS

            forms = list(QUANT_ALGOS)
        return {"ui": {"text": [json.dumps(forms)]}}


class ProbeNames(Probe):
    """The key map of a checkpoint that is not loaded, as JSON."""

    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file_name": ("STRING", {})}}

    def probe(self, file_name):
        host = pack_host()
        model = host.model_from_file(host.model_path(file_name))
        names = {name: str(ref) for name, ref in model.key_map.items()}
        return {"ui": {"text": [json.dumps(names)]}}


class ProbePatches(Probe):
    """How far two patched models differ, weight by weight, relative to what the first changes."""

    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        types = {"model": ("MODEL",), "other_model": ("MODEL",)}
        return {"required": types, "optional": {"clip": ("CLIP",), "other_clip": ("CLIP",)}}

    def probe(self, model, other_model, clip=None, other_clip=None):
        result = self.compare(model, other_model)
        if clip is not None:
            result |= self.compare(clip.patcher, other_clip.patcher)
        return {"ui": {"text": [json.dumps(result)]}}

    @classmethod
    def compare(cls, one, other):
        result = {}
        for key in one.patches.keys() | other.patches.keys():
            base = comfy.utils.get_attr(one.model, key).float()
            a, b = (cls.patched(patcher, key, base.clone()) for patcher in (one, other))
            base = cls.padded(base, a.shape)
            change = (a - base).norm()
            result[key] = {
                "change": float(change / base.norm()) if base.norm() > 0 else float(change),
                "difference": float((a - b).norm() / change) if change > 0 else float("inf"),
            }
        return result

    @staticmethod
    def padded(base, shape):
        """With zeros where a patch has made the weight larger."""
        larger = base.new_zeros(shape)
        larger[tuple(slice(side) for side in base.shape)] = base
        return larger

    @staticmethod
    def patched(patcher, key, weight):
        # In June 2024 it was a method.
        calculate = getattr(comfy.lora, "calculate_weight", None) or patcher.calculate_weight
        return calculate(patcher.patches[key], weight, key) if key in patcher.patches else weight


class ProbeLoraModel(Probe):
    """A LORA_MODEL that another pack's node made: a state dict and nothing else."""

    RETURN_TYPES = ("LORA_MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"lora": ("LORA_MODEL",)}}

    def probe(self, lora):
        return (dict(lora),)


NODE_CLASS_MAPPINGS = {
    "ProbeFingerprint": ProbeFingerprint,
    "ProbeForms": ProbeForms,
    "ProbeKeyMap": ProbeKeyMap,
    "ProbeLoraModel": ProbeLoraModel,
    "ProbeNames": ProbeNames,
    "ProbePatches": ProbePatches,
    "ProbeWeights": ProbeWeights,
}
