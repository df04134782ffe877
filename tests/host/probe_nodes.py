"""Nodes that only the host tests use: they look into the host from inside."""

import hashlib
import json
import sys

import torch


def pack_host():
    """The pack's nodes/host.py, as the host has loaded it."""
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


NODE_CLASS_MAPPINGS = {
    "ProbeFingerprint": ProbeFingerprint,
    "ProbeKeyMap": ProbeKeyMap,
    "ProbeNames": ProbeNames,
}
