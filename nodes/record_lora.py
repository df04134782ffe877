"""Record Source LoRA: samples the source, and keeps what it says of its LoRA."""

import torch

from ..prolora.errors import ProLoRAError
from ..prolora.recording.loaded_source import check_source, loadable
from ..prolora.recording.record import Clean, RecordingSettings, record
from ..prolora.recording.size import expected_size, refuse_too_large
from ..prolora.recording.text import describe
from . import host
from .source_model import loaded_model

DEFAULTS = RecordingSettings()


class RecordSourceLora:
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = ("record LoRA", "calibrate LoRA", "calibration", "distilled model", "teacher")
    DESCRIPTION = (
        "Samples the source with a LoRA and keeps what the LoRA reads and does there: a small file "
        "that stands for the source. It makes transfers better and is what Refine Transferred LoRA "
        "learns from. It takes as long as sampling that many pictures, and a little more."
    )
    RETURN_TYPES = ("PROLORA_RECORDING", "STRING")
    RETURN_NAMES = ("recording", "info")
    OUTPUT_TOOLTIPS = (
        "Connect to ProLoRA Transfer, Refine Transferred LoRA and Save Recording.",
        "What was recorded, which modules were not heard and why, and its size.",
    )
    FUNCTION = "record"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "source_lora": ("PROLORA_SOURCE", {"tooltip": "From Load Source LoRA."}),
                "model": (
                    "MODEL",
                    {
                        "tooltip": "The MODEL of the checkpoint that the LoRA was trained on. It "
                        "is not changed. LoRAs that patch it do not count."
                    },
                ),
                "positive": (
                    "CONDITIONING",
                    {
                        "tooltip": "One or several prompts, from Encode Prompts or any text "
                        "encoder. Many different subjects are better than one."
                    },
                ),
                "latent_image": (
                    "LATENT",
                    {"tooltip": "An empty latent. It gives the size; its batch does not count."},
                ),
                "samples": (
                    "INT",
                    {
                        "default": 64,
                        "min": 1,
                        "max": 4096,
                        "tooltip": "How many pictures are sampled. They take the prompts in turn.",
                    },
                ),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "tooltip": "The seed of all that is random.",
                    },
                ),
                "steps": (
                    "INT",
                    {"default": 20, "min": 1, "max": 10000, "tooltip": "Steps of each picture."},
                ),
                "cfg": (
                    "FLOAT",
                    {
                        "default": 7.0,
                        "min": 0.0,
                        "max": 100.0,
                        "step": 0.1,
                        "round": 0.01,
                        "tooltip": "How closely the pictures follow the prompts. Other than 1 it "
                        "needs a negative prompt.",
                    },
                ),
                "sampler_name": (host.samplers(), {"tooltip": "As in a KSampler."}),
                "scheduler": (host.schedulers(), {"tooltip": "As in a KSampler."}),
                "levels": (
                    "INT",
                    {
                        "default": DEFAULTS.levels,
                        "min": 1,
                        "max": 64,
                        "advanced": True,
                        "tooltip": "How many times each picture is kept, each with another amount "
                        "of noise.",
                    },
                ),
                "positions": (
                    "INT",
                    {
                        "default": DEFAULTS.positions,
                        "min": 1,
                        "max": 65536,
                        "advanced": True,
                        "tooltip": "At how many places of the pictures each module is heard: at "
                        "least one for each noised latent (samples times levels).",
                    },
                ),
                "sample_with_lora": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "advanced": True,
                        "tooltip": "Sample the pictures with the LoRA, so that they are in its "
                        "style. Off: sample them without it.",
                    },
                ),
            },
            "optional": {
                "negative": (
                    "CONDITIONING",
                    {"tooltip": "One negative prompt, for a cfg other than 1."},
                ),
                "clip": (
                    "CLIP",
                    {
                        "tooltip": "The source's text encoder, if the LoRA has modules for it. "
                        "Then the prompts must come from Encode Prompts."
                    },
                ),
                "sigmas": (
                    "SIGMAS",
                    {
                        "tooltip": "For a distilled target (Turbo, Lightning, LCM): the few steps "
                        "that it is sampled in, from a scheduler node on the target MODEL. The "
                        "source's way between two steps is recorded then, with cfg."
                    },
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    def record(
        self,
        source_lora,
        model,
        positive,
        latent_image,
        samples,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        levels,
        positions,
        sample_with_lora,
        negative=None,
        clip=None,
        sigmas=None,
        unique_id="",
        prompt=None,
    ):
        bare = host.without_loras(model)
        loaded = loaded_model(bare, None, unique_id, prompt)
        check_source(source_lora, loaded, host.kept_as(bare))
        patched, _ = host.apply_lora(bare, None, loadable(source_lora, loaded), 1.0, 0.0)
        prompts, unwanted = host.prompts_of(positive), self.negative_of(negative, cfg)
        latent = host.one_latent(latent_image)
        seeds = self.seeds_of(seed)
        settings = RecordingSettings(
            levels=levels,
            positions=positions,
            seed=seeds["noise"],
            schedule=None if sigmas is None else tuple(sigmas.tolist()),
            cfg=cfg,
            said={
                "model": loaded.name,
                "seed": str(seed),
                "steps": str(steps),
                "cfg": f"{cfg:g}",
                "sampler": sampler_name,
                "scheduler": scheduler,
                "size": " x ".join(map(str, latent["samples"].shape[2:])),
                "sampled": "with the LoRA" if sample_with_lora else "without the LoRA",
            },
        )
        size = expected_size(source_lora, host.latent_shape(bare, latent), samples, settings)
        refuse_too_large(size)
        host.say(f"The recording will take about {size / 2**20:.1f} MB.")
        progress = host.Progress()
        prompt_of = torch.arange(samples) % len(prompts)
        with host.memory_explained():
            latents = host.sample(
                patched if sample_with_lora else bare,
                host.conditioning_of(prompts[index] for index in prompt_of.tolist()),
                host.conditioning_of([unwanted or prompts[0]]),
                latent,
                seeds["sampling"],
                steps,
                cfg,
                sampler_name,
                scheduler,
                progress,
            )
            recording = record(
                source_lora,
                host.network_of(bare),
                host.network_of(patched),
                Clean(latents, tuple(prompts), prompt_of, unwanted),
                self.levels_of(bare, samples * levels, seeds["levels"]),
                host.latent_format(bare)[0],
                settings,
                progress,
                None if clip is None else host.text_network_of(host.clip_without_loras(clip)),
            )
        info = describe(recording)
        info = host.say(info)
        return {"ui": {"text": [info]}, "result": (recording, info)}

    @staticmethod
    def seeds_of(seed):
        """A seed for each use: of one they would draw the same numbers.

        The noise that is added to the pictures would be the noise that they were sampled from.
        """
        uses = ("sampling", "levels", "noise")
        return {use: (seed + later) % 2**63 for later, use in enumerate(uses)}

    @staticmethod
    def negative_of(negative, cfg):
        if negative is None and cfg != 1:
            raise ProLoRAError(
                f"A cfg of {cfg:g} needs a negative prompt. Connect one (an empty text will do), "
                "or set cfg to 1."
            )
        if negative is None:
            return None
        found = host.prompts_of(negative)
        if len(found) > 1:
            raise ProLoRAError(
                f"There are {len(found)} negative prompts. Connect one, for all pictures."
            )
        return found[0]

    @staticmethod
    def levels_of(model, count, seed):
        return host.levels(model, count, torch.Generator().manual_seed(seed)).tolist()
