"""Wan 2.2: one LoRA, or a pair, to the experts of high and of low noise, in one graph."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prolora import TransferSettings, load_checkpoint, read_adapter_file, transfer_lora

from .checks import relative
from .prompts import PromptBuilder
from .small.architectures import ARCHITECTURES
from .small.files import SmallFiles, offer_saved_lora, skip_unless_it_loads, write_small_files

pytestmark = pytest.mark.host

EXPERTS = ("high", "low")
LOW_LORA = "small_wan_low_lora.safetensors"


@pytest.fixture
def wan(client, comfy) -> SmallFiles:
    """Wan 2.1, a LoRA for it, and two models that were trained on from it: the experts."""
    skip_unless_it_loads(ARCHITECTURES["wan"], client)
    models = comfy.folder / "models"
    files = write_small_files("wan", models)
    parent = load_file(models / "unet" / files.parent)
    for seed, expert in enumerate(EXPERTS):
        random = torch.Generator().manual_seed(10 + seed)
        drifted = {key: noisy(tensor, random) for key, tensor in parent.items()}
        save_file(drifted, models / "unet" / file_of(expert))
    lora = load_file(models / "loras" / files.lora)
    random = torch.Generator().manual_seed(20)
    save_file(
        {key: torch.randn(t.shape, generator=random) * t.std() for key, t in lora.items()},
        models / "loras" / LOW_LORA,
    )
    return files


def noisy(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    noise = torch.randn(tensor.shape, generator=random)
    return (tensor.float() + 0.3 * noise * tensor.float().norm() / noise.norm()).to(tensor.dtype)


def file_of(expert: str) -> str:
    return f"wan2.2_{expert}_noise.safetensors"


def unet(graph: PromptBuilder, name: str) -> list:
    return graph.node("UNETLoader", unet_name=name, weight_dtype="default")


def two_steps(graph: PromptBuilder, high: list, low: list, prefix: str) -> None:
    """Four steps, the first two by the expert of high noise."""
    text = graph.node("ProbeConditioning", context=ARCHITECTURES["wan"].context, pooled=0)
    latent = graph.node("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)
    for model, start, end in ((high, 0, 2), (low, 2, 4)):
        latent = graph.node(
            "KSamplerAdvanced",
            model=model,
            add_noise="enable" if start == 0 else "disable",
            noise_seed=1,
            steps=4,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            positive=text,
            negative=text,
            latent_image=latent,
            start_at_step=start,
            end_at_step=end,
            return_with_leftover_noise="enable" if start == 0 else "disable",
        )
    graph.node("SaveLatent", samples=latent, filename_prefix=prefix)


def updates(path, model) -> dict[str, np.ndarray]:
    """The key of a weight -> the update that a file makes of it."""
    found = {}
    for adapter in read_adapter_file(path).adapters:
        weight = model.weight(model.resolve(adapter.name), torch.device("cpu"), torch.float64)
        found[model.resolve(adapter.name).key] = adapter.update(weight).delta.numpy()
    return found


def moved_by_the_core(comfy, wan: SmallFiles, expert: str, lora: str) -> dict[str, np.ndarray]:
    """The same transfer without a host, from the files."""
    folder = comfy.folder / "models"
    source, target = (
        load_checkpoint(folder / "unet" / name) for name in (wan.parent, file_of(expert))
    )
    file = read_adapter_file(folder / "loras" / lora)
    result = transfer_lora(file, source, target, TransferSettings(mode="full", threshold=0.0))
    assert result.report.transferred == len(file.adapters)
    return {
        target.resolve(adapter.name).key: adapter.update(
            target.weight(target.resolve(adapter.name), torch.device("cpu"), torch.float64)
        ).delta.numpy()
        for adapter in result.adapters
    }


def far(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    assert one.keys() == other.keys()
    return min(relative(one[key], other[key]) for key in one)


def near(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    assert one.keys() == other.keys()
    return max(relative(one[key], other[key]) for key in one)


def test_one_lora_to_both_experts(client, comfy, wan, latents):
    """Each gets what a transfer to it alone gives; together they sample as with the two files."""
    graph = PromptBuilder()
    source = graph.source(wan.lora, source_checkpoint=wan.parent)
    plain = [unet(graph, file_of(expert)) for expert in EXPERTS]
    loras = [graph.transfer(source, model, threshold=0.0) for model in plain]
    for lora, expert in zip(loras, EXPERTS, strict=True):
        graph.save(lora, f"loras/one_{expert}", "fp32")
    patched = [graph.apply(model, lora) for model, lora in zip(plain, loras, strict=True)]
    two_steps(graph, *plain, "experts_plain")
    two_steps(graph, *patched, "experts_patched")
    two_steps(graph, plain[0], patched[1], "experts_low_alone")
    client.free()
    done = client.queue(graph.prompt)

    made = {}
    for lora, expert in zip(loras, EXPERTS, strict=True):
        assert f"to {file_of(expert)}" in done.of(lora[0])["text"][0]
        name = offer_saved_lora(f"one_{expert}", comfy.folder)
        target = load_checkpoint(comfy.folder / "models" / "unet" / file_of(expert))
        made[expert] = updates(comfy.folder / "models" / "loras" / name, target)
        copied = updates(comfy.folder / "models" / "loras" / wan.lora, target)
        assert far(copied, made[expert]) > 0.02
        assert near(made[expert], moved_by_the_core(comfy, wan, expert, wan.lora)) < 1e-4
    assert far(made["high"], made["low"]) > 0.02

    files = [offer_saved_lora(f"one_{expert}", comfy.folder) for expert in EXPERTS]
    loaded = [graph.core_lora(model, file) for model, file in zip(plain, files, strict=True)]
    two_steps(graph, *loaded, "experts_files")
    client.queue(graph.prompt)
    wanted = latents("experts_files")
    assert np.isfinite(wanted).all()
    assert relative(latents("experts_plain"), wanted) > 0.01
    assert relative(latents("experts_low_alone"), wanted) > 0.01
    assert relative(latents("experts_patched"), wanted) < 1e-4


def test_a_pair_of_loras(client, comfy, wan):
    """A file for each expert, both trained on Wan 2.1."""
    graph = PromptBuilder()
    for expert, file in zip(EXPERTS, (wan.lora, LOW_LORA), strict=True):
        source = graph.source(file, source_checkpoint=wan.parent)
        lora = graph.transfer(source, unet(graph, file_of(expert)), threshold=0.0)
        graph.save(lora, f"loras/pair_{expert}", "fp32")
    client.queue(graph.prompt)
    made = {}
    for expert, file in zip(EXPERTS, (wan.lora, LOW_LORA), strict=True):
        name = offer_saved_lora(f"pair_{expert}", comfy.folder)
        target = load_checkpoint(comfy.folder / "models" / "unet" / file_of(expert))
        made[expert] = updates(comfy.folder / "models" / "loras" / name, target)
        assert near(made[expert], moved_by_the_core(comfy, wan, expert, file)) < 1e-4
    assert far(made["high"], made["low"]) > 0.5
