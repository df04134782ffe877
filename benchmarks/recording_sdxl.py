"""What a recording of a LoRA for SDXL holds and costs: counted on its real shapes, not run.

    python -m benchmarks.recording_sdxl

Run it in the repository's root. It writes a recording with SDXL's names and shapes and random
numbers, of a rank-32 LoRA for all 722 modules of the UNet, at 1024 x 1024 pixels, and counts how
often a model runs for it and for what follows. No GPU is needed, because a file's size and a count
depend on shapes and settings alone.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from fixtures.stable_diffusion import sdxl_checkpoint, sdxl_lora_modules
from prolora.models.model import Model
from prolora.models.outline import OutlineWeights
from prolora.models.references import WeightRef
from prolora.recording.file import SUFFIX, write_recording
from prolora.recording.network import Prompt
from prolora.recording.record import KEPT_DTYPE, RecordingSettings
from prolora.recording.recording import ReadOut, Recording
from prolora.recording.refine import HELD_OUT, RefineSettings

RANK, SIDE, PROMPTS, TOKENS, CONTEXT, POOLED = 32, 1024, 12, 77, 2048, 1280
UNET = "model.diffusion_model."


@dataclass(frozen=True)
class Passes:
    """How often a model runs, a latent at a time.

    Attributes:
        sample: forward, for the pictures of a recording: two a step, for their guidance.
        listen: forward, of the source, with the LoRA and without.
        calibrate: forward, of the target.
        ask: forward, of the target and of the student, while refining.
        refine: forward and backward, of the student.
    """

    sample: int
    listen: int
    calibrate: int
    ask: int
    refine: int


def passes(samples: int = 64, steps: int = 20) -> Passes:
    """For a recording of so many pictures, drawn in so many steps, and what follows it."""
    count, refining = samples * RecordingSettings().levels, RefineSettings()
    apart = max(count // HELD_OUT, 1)
    return Passes(
        sample=2 * samples * steps,
        listen=3 * count,
        calibrate=count,
        ask=count + 6 * apart,
        refine=refining.steps * refining.batch,
    )


def recording(samples: int, settings: RecordingSettings) -> Recording:
    """Random numbers in the shapes of a recording of SDXL."""
    count = samples * settings.levels
    latents = torch.randn(count, 4, SIDE // 8, SIDE // 8).to(KEPT_DTYPE)
    prompt = {"cross_attn": (1, TOKENS, CONTEXT), "pooled_output": (1, POOLED)}
    prompts = [Prompt({k: torch.randn(s) for k, s in prompt.items()}) for _ in range(PROMPTS)]
    modules = [module.name for module in sdxl_lora_modules() if module.name.startswith("lora_unet")]
    positions = torch.zeros(settings.positions, dtype=torch.int32)
    readout = ReadOut(positions, positions, positions, torch.randn(settings.positions, RANK))
    shapes = {
        key.removeprefix("model."): shape
        for key, shape in sdxl_checkpoint().items()
        if key.startswith(UNET)
    }
    by_lora = {
        "lora_unet_" + key.split(".", 1)[1].rpartition(".")[0].replace(".", "_"): key
        for key in shapes
    }
    names = {name: WeightRef(by_lora[name]) for name in modules}
    return Recording(
        lora="0" * 64,
        source=Model("sdxl.safetensors", "SDXL", OutlineWeights("sdxl", shapes), names),
        latent_format="SDXL",
        latents=latents,
        sigmas=torch.rand(count),
        prompts=tuple(prompts),
        prompt_of=torch.arange(count) % PROMPTS,
        sample_of=torch.arange(count) // settings.levels,
        noising=torch.zeros(count, 2),
        derivatives=latents.clone(),
        derivatives_without=latents.clone(),
        next_sigmas=None,
        readouts=dict.fromkeys(modules, readout),
        text_readouts={},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=64, help="(64)")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler (20)")
    options = parser.parse_args()
    settings, runs = RecordingSettings(), passes(options.samples, options.steps)
    made = recording(options.samples, settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"lora{SUFFIX}"
        write_recording(made, path)
        size = path.stat().st_size
    heard = sum(r.values.numel() * 4 + r.examples.numel() * 12 for r in made.readouts.values())
    inputs = 4 * settings.positions * sum(m.n for m in sdxl_lora_modules() if "unet" in m.name)
    print(f"{len(made.readouts)} modules, rank {RANK}, {len(made)} noised latents of {SIDE} pixels")
    print(f"the file: {size / 1e6:.1f} MB, of which read-outs {heard / 1e6:.1f} MB")
    print(f"record: {runs.sample} forward passes to sample (cfg: two a step)")
    print(f"record: {runs.listen} forward passes to listen, with the LoRA and without")
    print(f"calibrate: {runs.calibrate} forward passes, {inputs / 1e6:.0f} MB of inputs held")
    print(
        f"refine, {RefineSettings().steps} steps: {runs.refine} forward and backward passes (each "
        f"block forward twice), {runs.ask} forward passes more"
    )


if __name__ == "__main__":
    main()
