"""Nodes of the architecture tests: what the host and the pack make of models without data."""

import importlib
import json
import re
import sys
import tempfile
from pathlib import Path

import comfy.supported_models
import folder_paths
import torch
from safetensors.torch import save_file

KEPT = re.compile(r"(\d+) modules have no name in this naming")


def pack(module):
    """A module of the pack, as the host has loaded it."""
    host = next(name for name in sys.modules if name.endswith(".nodes.host"))
    return importlib.import_module(host.removesuffix("nodes.host") + module)


class Probe:
    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ()
    FUNCTION = "probe"
    OUTPUT_NODE = True


class ProbeClass(Probe):
    """Names and shapes of a class of the host, built without data."""

    @classmethod
    def INPUT_TYPES(cls):
        inputs = {"host_class": ("STRING", {}), "config": ("STRING", {})}
        return {"required": {**inputs, "text_encoders": ("BOOLEAN", {})}}

    def probe(self, host_class, config, text_encoders):
        known = getattr(comfy.supported_models, host_class)(json.loads(config))
        found = self.text_encoders(known) if text_encoders else self.diffusion_model(known)
        return {"ui": {"text": [json.dumps(shapes(found))]}}

    @staticmethod
    def diffusion_model(config):
        model = config.get_model({}, "", device=torch.device("meta"))
        return model.diffusion_model.state_dict()

    @staticmethod
    def text_encoders(config):
        """By the keys of a checkpoint, without positions and single numbers."""
        options = {"dtype": torch.float16, "model_options": {}}
        made = config.clip_target().clip(device=torch.device("meta"), **options)
        saved = config.process_clip_state_dict_for_saving(made.state_dict())
        return {k: t for k, t in saved.items() if t.is_floating_point() and t.ndim}


class ProbeClasses(Probe):
    """The architectures that the host knows."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def probe(self):
        return {"ui": {"text": [json.dumps(dir(comfy.supported_models))]}}


class ProbeArchitecture(Probe):
    """A LoRA of every module, in every naming, paired with the model itself."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file_name": ("STRING", {})}}

    def probe(self, file_name):
        host, errors = pack("nodes.host"), pack("prolora.errors")
        try:
            model = host.model_from_file(host.model_path(file_name))
        except errors.ProLoRAError as error:
            return {"ui": {"text": [json.dumps({"refused": str(error)})]}}
        lora = lora_of(model)
        tree = pack("prolora.pairing.module_tree").module_tree(model)
        same = pack("prolora.pairing.alignment").align(tree, tree, no_similarity)
        namings = pack("prolora.naming.output_names").NAMINGS
        result = {
            "architecture": model.architecture,
            "shapes": {key: list(model.weights.shape(key)) for key in model.weights},
            "addressed": [model.resolve(adapter.name).key for adapter in lora],
            "names": {name: place(ref) for name, ref in model.key_map.items()},
            "text_encoders": len(
                {ref.key for ref in model.key_map.values() if is_text(model, ref)}
            ),
            "namings": {naming: written(naming, lora, model, same) for naming in namings},
        }
        return {"ui": {"text": [json.dumps(result)]}}


def shapes(state_dict):
    return {key: list(tensor.shape) for key, tensor in state_dict.items()}


def place(ref):
    part = ref.part
    return {
        "key": ref.key,
        "part": part and [part.dim, part.start, part.length],
        "halves_swapped": ref.halves_swapped,
    }


def is_text(model, ref):
    return not ref.key.startswith("diffusion_model.") and len(model.shape(ref)) > 1


def lora_of(model):
    """A LoRA of rank 1, all zero, with every module of the diffusion model that has a name."""
    adapter = pack("prolora.adapters").LoraAdapter
    lora = []
    for key in model.weights:
        shape = model.weights.shape(key)
        if not (key.startswith("diffusion_model.") and key.endswith(".weight") and len(shape) > 1):
            continue
        whole = [
            name for name, ref in model.names_of(key) if ref.part is None and not ref.halves_swapped
        ]
        if whole:
            up = torch.zeros(shape[0], 1, *(1 for _ in shape[2:]))
            lora.append(adapter(whole[0], up, torch.zeros(1, *shape[1:]), None))
    return lora


def written(naming, lora, model, same):
    """What comes of a file of it in a naming."""
    renamed = pack("prolora.naming.output_names").rename(
        lora, model.key_map, model.architecture, naming
    )
    kept = [KEPT.match(note) for note in renamed.notes]
    adapters = pack("prolora.adapters")
    tensors = adapters.lora_state_dict(renamed.adapters, torch.float16, renamed.style)
    home = folder_paths.get_output_directory()  # as all that a node reads and writes
    with tempfile.TemporaryDirectory(dir=home) as folder:
        path = Path(folder) / f"{naming}.safetensors"
        save_file(tensors, path)
        file = pack("nodes.host").read_lora(path)
        lora = pack("prolora.transfer.resolve").resolve(file, model)
        pairing = pack("prolora.transfer.plan").plan(lora, same, model)
    return {
        "otherwise": sum(int(match[1]) for match in kept if match),
        "paired": sorted({pair.target.key for pair in pairing.pairs}),
        "crossed": [pair.name for pair in pairing.pairs if pair.source != pair.target],
        "unpaired": [f"{module.name}: {module.reason}" for module in pairing.left],
        "summary": report(file, model, pairing),
    }


def no_similarity(source, target):
    raise AssertionError(f"{source.path} and {target.path} were compared, though names tell")


def report(file, model, pairing):
    """The report of a transfer, but for what is measured on weights."""
    reports = pack("prolora.transfer.report")
    rows = [
        reports.ModuleReport(
            pair.name,
            "copied",
            "their weights were not looked at",
            family=pair.adapter.family,
            source_key=str(pair.source),
            target_key=str(pair.target),
            source_shape=pair.source_shape,
            target_shape=pair.target_shape,
            rank_in=pair.adapter.rank,
            rank_out=pair.adapter.rank,
        )
        for pair in pairing.pairs
    ]
    rows += [reports.ModuleReport(m.name, "skipped", m.reason) for m in pairing.left]
    place = f"{model.name} ({model.architecture})"
    settings = {"mode": "copy"}
    made = reports.Report(file.name, place, place, settings, tuple(rows), file.unknown)
    assert len(json.loads(made.to_json())["rows"]) == len(rows)
    return pack("prolora.transfer.report_text").summary_of(made)


NODE_CLASS_MAPPINGS = {
    "ProbeArchitecture": ProbeArchitecture,
    "ProbeClass": ProbeClass,
    "ProbeClasses": ProbeClasses,
}
