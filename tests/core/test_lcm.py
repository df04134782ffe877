"""LCM-LoRAs at the real shapes and key names of latent-consistency/lcm-lora-sdv1-5 and -sdxl."""

import pytest
import torch

from fixtures import stable_diffusion as sd
from prolora.adapters import parse_adapter_file
from prolora.models.key_map import model_of
from prolora.pairing.module_pairs import as_matrix
from prolora.transfer.resolve import resolve

RANK = 64
# The size of the published file in bytes: names and shapes are in its header, so it tells a name
# that is one letter too long. (lcm-lora-sdxl has been published in two, with 600 bytes more of
# metadata in the other; TCD-SDXL-LoRA, of the same modules, has this one too.)
CASES = {
    "sdv1-5": (sd.SD15, sd.sd15_checkpoint, 134_621_556),
    "sdxl": (sd.SDXL, sd.sdxl_checkpoint, 393_854_624),
}


class Shapes(dict[str, sd.Shape]):
    """The weights of a checkpoint, without any data."""

    def shape(self, key: str) -> sd.Shape:
        return self[key]

    def read(self, key: str) -> torch.Tensor:
        raise AssertionError(f"{key} was read")


def lcm_lora(modules: sd.Shapes) -> dict[str, torch.Tensor]:
    """Kohya's keys over the diffusers library's names; one number is the storage of all."""
    number = torch.ones(())
    tensors = {}
    for module, (m, *inputs) in modules.items():
        name = "lora_unet_" + module.replace(".", "_")
        tensors[f"{name}.alpha"] = torch.tensor(float(RANK))
        tensors[f"{name}.lora_down.weight"] = number.expand(RANK, *inputs)
        tensors[f"{name}.lora_up.weight"] = number.expand(m, RANK, *(1 for _ in inputs[1:]))
    return tensors


def file_size(tensors: dict[str, torch.Tensor]) -> int:
    """Of a safetensors file in fp16, as its library writes it."""
    shapes = {name: tuple(tensors[name].shape) for name in sorted(tensors)}
    header = sd.file_header(shapes, {"format": "pt"})
    return len(header) + sum(2 * tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize("case", CASES)
def test_an_lcm_lora_reads_with_no_key_left_over(case):
    figures, checkpoint, size = CASES[case]
    modules = sd.lcm_lora_modules(figures)
    tensors = lcm_lora(modules)
    assert file_size(tensors) == size, "not the modules of the real file"

    model = model_of(case, Shapes(checkpoint()))
    file = parse_adapter_file(tensors, f"lcm-lora-{case}.safetensors")

    assert file.unknown == () and not file.left_out and not file.vector_patches
    assert len(file.adapters) == len(modules)
    found = {adapter.name: model.key_map.get(adapter.name) for adapter in file.adapters}
    assert [name for name, place in found.items() if place is None] == []
    assert len(set(found.values())) == len(modules), "two modules share a weight"
    for adapter, shape in zip(file.adapters, modules.values(), strict=True):
        assert model.shape(found[adapter.name]) == shape
        assert adapter.delta_shape == as_matrix(shape)
    resolve(file, model)
    assert file.accelerator == "LCM"


def test_the_attention_of_sd15_does_not_fit_sdxl():
    """The names of the two overlap, so it is the shapes that tell."""
    model = model_of("SDXL", Shapes(sd.sdxl_checkpoint()))
    file = parse_adapter_file(lcm_lora(sd.lcm_lora_modules(sd.SD15)), "lcm-lora-sdv1-5")
    with pytest.raises(Exception, match="does not fit the source checkpoint SDXL"):
        resolve(file, model)
