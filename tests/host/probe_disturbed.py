"""Nodes that do to the host what other packs do: settings of torch, other models, faults."""

import importlib.util
from pathlib import Path

import torch


def of_core(name):
    """A helper of tests/core, which this file lies beside where it is not linked."""
    path = Path(__file__).resolve().parents[1] / "core" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"probe_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DISTURBANCES = of_core("disturbances")
FAULTS = of_core("faults")
_UNDO = []


def put_back():
    while _UNDO:
        _UNDO.pop()()


class Probe:
    CATEGORY = "ProLoRA/tests"
    FUNCTION = "run"


class ProbeDisturb(Probe):
    """Sets something for the whole process, once both inputs are there."""

    RETURN_TYPES = ("MODEL", "PROLORA_SOURCE", "STRING")

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "source_lora": ("PROLORA_SOURCE",),
                "name": ("STRING", {"default": ""}),
            }
        }

    def run(self, model, source_lora, name):
        if name:
            change, undo = DISTURBANCES.DISTURBANCES[name]
            change()
            _UNDO.append(undo)
        return model, source_lora, str(DISTURBANCES.settings())


class ProbeFault(Probe):
    """Lets an operation of torch fail for want of memory, after this node."""

    RETURN_TYPES = ("MODEL", "PROLORA_SOURCE")

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "source_lora": ("PROLORA_SOURCE",),
                "number": ("INT", {"default": 0}),
                "kind": ("STRING", {"default": ""}),
            }
        }

    def run(self, model, source_lora, number, kind):
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # so that all is done in this thread, which the fault is of
        fault = FAULTS.FaultAt(number, FAULTS.NO_MEMORY[kind])
        fault.__enter__()
        _UNDO.extend(
            [lambda: torch.set_num_threads(before), lambda: fault.__exit__(None, None, None)]
        )
        return model, source_lora


class ProbePutBack(Probe):
    """Puts back what was set; says whether it was still so."""

    RETURN_TYPES = ("LORA_MODEL",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"salt": ("INT", {"default": 0})},
            "optional": {"lora": ("LORA_MODEL",), "settings": ("STRING", {"forceInput": True})},
        }

    def run(self, salt, lora=None, settings=""):
        same = str(DISTURBANCES.settings()) == settings
        put_back()
        return {"ui": {"text": [str(same)]}, "result": (lora,)}


class ProbeChangedModel(Probe):
    """What other packs make of a MODEL."""

    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "how": ("STRING", {"default": ""})}}

    def run(self, model, how):
        model = model.clone()
        getattr(self, how)(model)
        return (model,)

    @staticmethod
    def channels_last(model):
        model.model.diffusion_model.to(memory_format=torch.channels_last)

    @staticmethod
    def compiled(model):
        """As the node of a host from June 2024, and packs, do it."""
        inner = model.get_model_object("diffusion_model")
        model.add_object_patch("diffusion_model", torch.compile(inner, backend="eager"))

    @staticmethod
    def wrapped(model):
        """As the node of a newer host does it."""
        try:
            from comfy_api.torch_helpers import set_torch_compile_wrapper
        except ImportError:
            return ProbeChangedModel.compiled(model)
        return set_torch_compile_wrapper(model, backend="eager")


NODE_CLASS_MAPPINGS = {
    "ProbeDisturb": ProbeDisturb,
    "ProbeFault": ProbeFault,
    "ProbePutBack": ProbePutBack,
    "ProbeChangedModel": ProbeChangedModel,
}
