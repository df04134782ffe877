"""Time and memory of calibrating and refining on a UNet of SDXL's size that runs.

    python -m benchmarks.listening_sdxl --device cuda            # 1024 x 1024 pixels, float16
    python -m benchmarks.listening_sdxl --small --side 128       # a tiny one, to try the script

Run it in the repository's root. The UNet is diffusers' class with SDXL's figures and random
weights, and so is the recording: time and memory depend on shapes alone. For the refinement's
memory it says what it peaks at with each block computed again, as the node does it, and without.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from prolora import TransferSettings
from prolora.adapters import AdapterFile, LoraAdapter
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights
from prolora.recording import refine as refining
from prolora.recording.calibrated import transfer_recorded
from prolora.recording.network import Network, Prompt
from prolora.recording.record import Clean, RecordingSettings, record
from prolora.recording.refine import RefineSettings, refine
from prolora.transfer.resolve import resolve

SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
SMALL = {
    "block_out_channels": (32, 64, 64),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (4, 4, 4),
    "norm_num_groups": 8,
}
RANK, TOKENS, POOLED = 32, 77, 1280
# What kohya's trainer attaches to by default.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")


def network_of(unet: nn.Module, device: torch.device, dtype: torch.dtype) -> Network:
    """An eps model: sigma is the noise level of x0 + sigma noise."""

    def denoise(
        latents: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[Prompt]
    ) -> torch.Tensor:
        spread = sigmas.to(device)[:, None, None, None]
        x = latents.to(device)
        given = (x / (spread.square() + 1).sqrt()).to(dtype)
        tokens, pooled = (
            torch.cat([prompt.tensors[key] for prompt in prompts]).to(device, dtype)
            for key in ("cross_attn", "pooled_output")
        )
        times = torch.full((len(x), 6), 1024.0, device=device)
        more = {"text_embeds": pooled, "time_ids": times}
        steps = torch.full((len(x),), 500.0, device=device)
        noise = unet(given, steps, tokens, added_cond_kwargs=more, return_dict=False)[0]
        return (x - spread * noise.float()).to(latents.device)

    return Network(
        root=unet,
        layers={
            f"{name}.weight": layer
            for name, layer in unet.named_modules()
            if isinstance(layer, (nn.Linear, nn.Conv2d))
        },
        denoise=denoise,
        output_scale=lambda sigmas: sigmas,
        noised=lambda clean, noise, sigmas: clean + sigmas[:, None, None, None] * noise,
    )


def lora_of(unet: nn.Module) -> AdapterFile:
    """A random rank-32 LoRA for the transformers."""
    adapters = []
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(TARGETS):
            m, n = layer.weight.shape
            up, down = 0.01 * torch.randn(m, RANK), torch.randn(RANK, n) / n**0.5
            adapters.append(LoraAdapter(name, up, down, float(RANK)))
    return AdapterFile("random", tuple(adapters), {}, (), {})


def measured(what: str, device: torch.device, run: Callable[[], object]) -> object:
    """Runs it; prints its seconds and the most memory that it took on the device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.monotonic()
    found = run()
    seconds = time.monotonic() - start
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    memory = f", peak {peak / 2**30:.1f} GB" if peak else ""
    print(f"{what}: {seconds:.1f} s{memory}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--side", type=int, default=1024, help="of the pictures (%(default)s)")
    parser.add_argument("--samples", type=int, default=64, help="(%(default)s)")
    parser.add_argument("--small", action="store_true", help="a UNet of a hundredth of the size")
    options = parser.parse_args()
    device = torch.device(options.device)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    with device:
        unet = UNet2DConditionModel(**SDXL | (SMALL if options.small else {}))
    unet = unet.to(dtype).eval().requires_grad_(False)
    network = network_of(unet, device, dtype)
    model = Model(
        "random",
        "SDXL",
        StateDictWeights(unet.state_dict()),
        {name.removesuffix(".weight"): WeightRef(name) for name in network.layers},
    )
    file = lora_of(unet)
    print(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.0f} M parameters, ", end="")
    print(f"{len(file.adapters)} modules, {options.side} pixels, {dtype}, {device}")

    settings = RecordingSettings()
    latents = torch.randn(options.samples, 4, options.side // 8, options.side // 8)
    prompt = {"cross_attn": (1, TOKENS, 2048), "pooled_output": (1, POOLED)}
    prompts = (Prompt({key: torch.randn(shape) for key, shape in prompt.items()}),)
    clean = Clean(latents, prompts, torch.zeros(options.samples, dtype=torch.long))
    sigmas = torch.linspace(0.1, 10, options.samples * settings.levels).tolist()
    lora = resolve(file, model)
    heard = measured(
        f"record {len(sigmas)} latents, sampling apart",
        device,
        lambda: record(lora, network, network, clean, sigmas, "SDXL", settings),
    )
    choices = TransferSettings(threshold=0, device=device, copy_identical=False)
    moved = measured(
        "calibrate, decompositions and all",
        device,
        lambda: transfer_recorded(lora, model, heard, network, choices),
    )
    for steps in (1, RefineSettings().steps):
        few = replace(RefineSettings(), steps=steps)
        measured(
            f"refine, {steps} steps of {few.batch}",
            device,
            lambda few=few: refine(moved.adapters, model, network, heard, few),
        )
    refining.blocks_of = lambda root, modules: []
    one = replace(RefineSettings(), steps=1, batch=1)
    measured(
        "refine, 1 step of 1, all kept",
        device,
        lambda: refine(moved.adapters, model, network, heard, one),
    )


if __name__ == "__main__":
    main()
