"""Prompts for the small SD1.5 of small_sd15.py."""

from .prompts import PromptBuilder
from .small_sd15 import LORA, SOURCE


class SD15Prompt(PromptBuilder):
    def source(self, **inputs) -> list:
        return super().source(LORA, **({"source_checkpoint": SOURCE} | inputs))

    def latents(self, model: list, clip: list, prefix: str) -> None:
        positive, negative = (
            self.node("CLIPTextEncode", clip=clip, text=text) for text in ("a lighthouse", "")
        )
        empty = self.node("EmptyLatentImage", width=64, height=64, batch_size=1)
        self.sample(
            prefix,
            model=model,
            steps=2,
            cfg=2.0,
            scheduler="normal",
            positive=positive,
            negative=negative,
            latent_image=empty,
        )
