"""A node that gives a MODEL weights like those that ComfyUI-GGUF loads.

What is imitated: a tensor of bytes that says it has the shape of its values, knows its ggml type,
and hands out itself where a layer detaches or clones it.
"""

import copy

import comfy.utils
import gguf
import gguf.quants
import numpy as np
import torch


class Blocks(torch.Tensor):
    """Rows of ggml blocks, or of floating-point values."""

    @staticmethod
    def __new__(cls, data, tensor_type, tensor_shape):
        return data.as_subclass(cls)

    def __init__(self, data, tensor_type, tensor_shape):
        self.tensor_type, self.tensor_shape = tensor_type, torch.Size(tensor_shape)

    def detach(self):
        return self

    def clone(self, *args, **kwargs):
        return self

    def __deepcopy__(self, memo):
        return self

    @property
    def shape(self):
        return getattr(self, "tensor_shape", None) or self.size()


class ProbeGGUF:
    """The attention and MLP weights of a copy of the MODEL, as ggml blocks of a type.

    `dequantised` gives the values that the gguf package itself reads from these blocks instead.
    Blocks of a type that the package does not write hold ones.
    """

    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "convert"

    @classmethod
    def INPUT_TYPES(cls):
        kind = {"type_name": ("STRING", {}), "dequantised": ("BOOLEAN", {})}
        return {"required": {"model": ("MODEL",), **kind}}

    def convert(self, model, type_name, dequantised):
        kind = gguf.GGMLQuantizationType[type_name]
        patcher = model.clone()
        config = model.model.model_config  # which cannot be copied
        patcher.model = copy.deepcopy(model.model, {id(config): config})
        for key in [key for key in patcher.model_state_dict() if self.is_large(key)]:
            weight = comfy.utils.get_attr(patcher.model, key).detach().float()
            data = torch.from_numpy(self.blocks(weight.numpy(), kind))
            if dequantised:
                values = gguf.quants.dequantize(data.numpy(), kind)
                value = torch.from_numpy(values).reshape(weight.shape)
            else:
                value = Blocks(data, kind, weight.shape)
            parent, name = key.rsplit(".", 1)
            module = comfy.utils.get_attr(patcher.model, parent)
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
        return (patcher,)

    @staticmethod
    def blocks(values, kind):
        try:
            return gguf.quants.quantize(values, kind)
        except NotImplementedError:
            block, size = gguf.GGML_QUANT_SIZES[kind]
            return np.ones((values.shape[0], values.shape[1] // block * size), np.uint8)

    @staticmethod
    def is_large(key):
        return key.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight")) and (
            "joint_blocks" in key
        )


NODE_CLASS_MAPPINGS = {"ProbeGGUF": ProbeGGUF}
