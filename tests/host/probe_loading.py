"""Nodes of the loading tests: a class of the host as a file, and a file as the host loads it."""

import contextlib
import importlib
import json
import mmap
import re
import sys
from pathlib import Path

import comfy.lora
import comfy.model_base
import comfy.model_detection
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch


def pack(module):
    """A module of the pack, as the host has loaded it."""
    host = next(name for name in sys.modules if name.endswith(".nodes.host"))
    return importlib.import_module(host.removesuffix("nodes.host") + module)


class Probe:
    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ()
    FUNCTION = "probe"
    OUTPUT_NODE = True


class ProbeHostClass(Probe):
    """The tensors of a diffusion model that the host detects as one of its classes."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"host_class": ("STRING", {}), "row": ("STRING", {})}}

    def probe(self, host_class, row):
        known = getattr(comfy.supported_models, host_class)
        try:
            shapes, refused = self.shapes(known, json.loads(row)), ""
        except Exception as error:
            shapes, refused = {}, str(error)
        return {"ui": {"text": [json.dumps({"shapes": shapes, "refused": refused})]}}

    @staticmethod
    def shapes(known, row):
        beside = {key: torch.zeros(shape) for key, shape in row["beside"].items()}
        drawn = unet_of(known, {**row["figures"], **known.unet_config}, beside)
        # Again, as the host sees that: an older one takes some figures for granted.
        drawn = {row["prefix"] + key: tensor for key, tensor in drawn.items()}
        made = build(detect(drawn | beside, row["metadata"]), beside).diffusion_model.state_dict()
        return {key: list(tensor.shape) for key, tensor in made.items()}


class ProbeHostClasses(Probe):
    """The architectures that the host loads."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def probe(self):
        names = [known.__name__ for known in comfy.supported_models.models]
        return {"ui": {"text": [json.dumps(names)]}}


def unet_of(host_class, figures, beside):
    """From those of the figures that the class takes: an older one has fewer."""
    try:
        return build(host_class(figures), beside).diffusion_model.state_dict()
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise
        figures = {name: figure for name, figure in figures.items() if name != unknown[1]}
        return unet_of(host_class, figures, beside)


def build(config, beside):
    try:
        return config.get_model(dict(beside), "", device=torch.device("meta"))
    except TypeError:
        raise
    except Exception:
        return config.get_model(dict(beside), "", device=torch.device("cpu"))


def detect(tensors, metadata):
    detection, options = comfy.model_detection, {}
    prefix = getattr(detection, "unet_prefix_from_state_dict", lambda _: "model.diffusion_model.")
    if metadata:
        options = {"metadata": metadata}
    return detection.model_config_from_unet(tensors, prefix(tensors), **options)


class ProbeLoading(Probe):
    """Compares a file that is not loaded with the MODEL that the host's own loader makes of it.

    Of that MODEL everything is the host's; only the last step is left out, in which the tensors
    are copied into it: they are compared instead.
    """

    @classmethod
    def INPUT_TYPES(cls):
        inputs = {"file_name": ("STRING", {}), "loader": (["checkpoint", "diffusion model"],)}
        return {"required": {**inputs, "data": ("BOOLEAN", {})}}

    def probe(self, file_name, loader, data):
        host = pack("nodes.host")
        path = host.model_path(file_name)
        try:
            patcher, tensors = load(path, loader, data)
        except Exception as error:
            refused = f"{type(error).__name__}: {error}"
            return {"ui": {"text": [json.dumps({"refused": refused})]}}
        file, model = host.model_from_file(path), host.model_from_graph(patcher, None, "")
        result = {
            "refused": "",
            "architectures": [file.architecture, model.architecture],
            **compare(file, model, tensors),
            **compare_values(file, tensors, stored(path, data)[0], data),
            "misfit": misfit(patcher.model.diffusion_model, tensors),
        }
        return {"ui": {"text": [json.dumps(result)]}}


def load(path, loader, data):
    """The patcher that the host's loader gives, and the tensors it would have copied into it."""
    tensors, metadata = stored(path, data)
    kept = {}

    def load_torch_file(*args, return_metadata=False, **kwargs):
        return (dict(tensors), metadata) if return_metadata else dict(tensors)

    def load_model_weights(model, state_dict, unet_prefix="", **kwargs):
        keys = [key for key in state_dict if key.startswith(unet_prefix)]
        unet = {key[len(unet_prefix) :]: state_dict.pop(key) for key in keys}
        kept.update(model.model_config.process_unet_state_dict(unet))
        return model

    with (
        replaced(comfy.utils, load_torch_file),
        replaced(comfy.model_base.BaseModel, load_model_weights),
    ):
        if loader == "checkpoint":
            patcher = comfy.sd.load_checkpoint_guess_config(
                str(path), output_vae=False, output_clip=False
            )[0]
        else:
            patcher = getattr(comfy.sd, "load_diffusion_model", comfy.sd.load_unet)(str(path))
    return patcher, kept


@contextlib.contextmanager
def replaced(owner, function):
    before = getattr(owner, function.__name__)
    setattr(owner, function.__name__, function)
    try:
        yield
    finally:
        setattr(owner, function.__name__, before)


def stored(path, data):
    """The tensors of a file, mapped, or without data; and its metadata."""
    file = pack("prolora.files.safetensors").open_safetensors(path)
    if data:
        tensors = mapped(path, file)
    else:
        tensors = {
            key: torch.empty(file.shape(key), dtype=file.dtype(key), device="meta")
            for key in file.keys()
        }
    return tensors, file.metadata() or {}


def mapped(path, file):
    """All tensors, copied when they are written to.

    The file may be larger than memory, for which a mapping of the whole would ask.
    """
    path = Path(path)
    with path.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        entries = json.loads(opened.read(length))
        entries.pop("__metadata__", None)
        places = {
            key: [8 + length + at for at in entry["data_offsets"]] for key, entry in entries.items()
        }
        tensors, first, until = {}, 0, 0
        for key in sorted(file.keys(), key=lambda key: places[key]):
            start, end = places[key]
            if end > until:
                first = start - start % mmap.ALLOCATIONGRANULARITY
                until = min(max(end, first + 2**30), path.stat().st_size)
                where = {"access": mmap.ACCESS_COPY, "offset": first}
                stretch = mmap.mmap(opened.fileno(), until - first, **where)
                whole = torch.frombuffer(stretch, dtype=torch.uint8)
            flat = whole[start - first : end - first]
            dtype = file.dtype(key)
            flat = flat.clone() if (start - first) % dtype.itemsize else flat
            tensors[key] = flat.view(dtype).reshape(file.shape(key))
    return tensors


def misfit(module, tensors):
    """What the host would complain of: weights that lack, are too many, or of another shape."""
    own = module.state_dict()
    wrong = own.keys() ^ tensors.keys()
    wrong |= {key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape}
    return sorted(wrong)


def compare(file, model, tensors):
    """What the names mean; those of weights that the host did not find in the file aside."""
    ours, loaded = file.key_map, model.key_map
    loaded = {n: ref for n, ref in loaded.items() if ref.key.split(".", 1)[1] in tensors}
    both = ours.keys() & loaded.keys()
    return {
        "names": len(both),
        "missing": sorted(loaded.keys() - ours.keys()),
        "extra": sorted(ours.keys() - loaded.keys()),
        "elsewhere": sorted(n for n in both if ours[n] != loaded[n]),
        "other_shapes": sorted(n for n in both if file.shape(ours[n]) != model.shape(loaded[n])),
    }


def compare_values(file, tensors, in_file, data):
    """Bit by bit, of what goes by another name in the file; the others are the file's."""
    ends = tuple(in_file)
    changed = [key for key in tensors if not any(k.endswith(key) for k in ends)] if data else []
    other = [k for k in changed if not same(file.weights.read(f"diffusion_model.{k}"), tensors[k])]
    return {"compared": len(changed), "other_values": other}


def same(one, other):
    return one.dtype == other.dtype and torch.equal(one, other)


class ProbeDiffusersNames(Probe):
    """Diffusers' name of every tensor of an SD3 -> ComfyUI's, the rows of it, are they swapped."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"depth": ("INT", {})}}

    def probe(self, depth):
        figures = {"depth": depth, "num_blocks": depth}
        found = {}
        for name, place in comfy.utils.mmdit_to_diffusers(figures).items():
            own, offset, *swap = (place, None) if isinstance(place, str) else place
            found[name] = {"own": own, "rows": offset and offset[1:], "swapped": bool(swap)}
        return {"ui": {"text": [json.dumps(found)]}}


class ProbeMemory(Probe):
    """How much memory the process takes more, in MB, once a weight of a file was read."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file_name": ("STRING", {}), "key": ("STRING", {})}}

    def probe(self, file_name, key):
        host = pack("nodes.host")
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # from here on
        before = peak()
        model = host.model_from_file(host.model_path(file_name))
        weight = model.weights.read(key)
        result = {"taken": peak() - before, "weight": weight.nbytes / 2**20}
        return {"ui": {"text": [json.dumps(result)]}}


def peak():
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


NODE_CLASS_MAPPINGS = {
    "ProbeDiffusersNames": ProbeDiffusersNames,
    "ProbeHostClass": ProbeHostClass,
    "ProbeHostClasses": ProbeHostClasses,
    "ProbeLoading": ProbeLoading,
    "ProbeMemory": ProbeMemory,
}
