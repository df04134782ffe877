"""Small prompts in the host's API format, built like Python calls."""

from typing import Any


class PromptBuilder:
    """Collects nodes; `node(...)` returns a link to its first output, `out(link, n)` to another."""

    def __init__(self) -> None:
        self.prompt: dict[str, dict[str, Any]] = {}

    def node(self, class_type: str, **inputs: Any) -> list:
        node_id = str(len(self.prompt) + 1)
        given = {name: value for name, value in inputs.items() if value is not None}
        self.prompt[node_id] = {"class_type": class_type, "inputs": given}
        return [node_id, 0]

    def checkpoint(self, name: str) -> list:
        return self.node("CheckpointLoaderSimple", ckpt_name=name)

    def source(self, lora: str = "emoji_style_lora.safetensors", **inputs: Any) -> list:
        checkpoint = inputs.pop("source_checkpoint", "emoji_a.safetensors")
        return self.node(
            "ProLoRALoadSource", lora_name=lora, source_checkpoint=checkpoint, **inputs
        )

    def transfer(self, source: list, model: list, **inputs: Any) -> list:
        """In mode full, which gives another LoRA than the source's; the nodes' own default is auto."""
        defaults = {"threshold": 0.5, "rank": 0, "mode": "full", "subspace_energy": 0.8}
        return self.node("ProLoRATransfer", source_lora=source, model=model, **(defaults | inputs))

    def extract(self, base: list | str, tuned: list | str, **inputs: Any) -> list:
        """All of the difference of two files or MODELs, but for what the inputs say."""
        chosen: dict[str, Any] = {"rank": 0, "energy": 1.0, "least": 0.0}
        for side, model in (("base", base), ("tuned", tuned)):
            is_file = isinstance(model, str)
            chosen[f"{side}_checkpoint"] = model if is_file else f"(the connected {side}_model)"
            chosen[f"{side}_model"] = None if is_file else model
        return self.node("ProLoRAExtract", **(chosen | inputs))

    def record(self, source: list, model: list, names: str = "cat, dog, apple", **inputs) -> list:
        """A recording by the demo's prompts: few samples, four steps."""
        cond = self.node("EmojiPrompt", names=names)
        empty = self.node("EmptySD3LatentImage", width=64, height=64, batch_size=1)
        defaults = {"samples": 6, "seed": 3, "steps": 4, "cfg": 1.0, "sampler_name": "euler"}
        defaults |= {"scheduler": "simple", "levels": 3, "positions": 64, "sample_with_lora": True}
        links = {"positive": cond, "latent_image": empty}
        given = {"source_lora": source, "model": model} | defaults | links | inputs
        return self.node("ProLoRARecord", **given)

    def refine(self, model: list, lora: list, recording: list, **inputs: Any) -> list:
        given = {"steps": 3, "seed": 0, "batch": 4, "rate": 0.02, "own": 0.3} | inputs
        return self.node("ProLoRARefine", model=model, lora=lora, recording=recording, **given)

    def apply(self, model: list, lora: list, strength: float = 1.0, **inputs: Any) -> list:
        strengths = {"strength_model": strength, "strength_clip": strength}
        return self.node("ProLoRAApply", model=model, lora=lora, **(strengths | inputs))

    def load_for_model(self, model: list, lora: str, **inputs: Any) -> list:
        strengths = {"strength_model": 1.0, "strength_clip": 1.0}
        given = {"lora_name": lora, "source_checkpoint": "emoji_a.safetensors"} | strengths | inputs
        return self.node("ProLoRALoadForModel", model=model, **given)

    def stack(self, model: list, loras: str, **inputs: Any) -> list:
        given = {"source_checkpoint": "emoji_a.safetensors", "loras": loras} | inputs
        return self.node("ProLoRAStack", model=model, **given)

    def save(self, lora: list, prefix: str, dtype: str = "fp32", naming: str | None = None) -> list:
        inputs = {"filename_prefix": prefix, "dtype": dtype, "naming": naming}
        return self.node("ProLoRASave", lora=lora, **inputs)

    def core_lora(self, model: list, name: str, strength: float = 1.0) -> list:
        return self.node(
            "LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength
        )

    def latents(self, model: list, prefix: str, names: str = "cat, dog, apple") -> None:
        """Samples three emoji in four steps and saves their latents."""
        cond = self.node("EmojiPrompt", names=names)
        empty = self.node("EmptySD3LatentImage", width=64, height=64, batch_size=3)
        self.sample(
            prefix,
            model=model,
            steps=4,
            cfg=1.0,
            scheduler="simple",
            positive=cond,
            negative=cond,
            latent_image=empty,
        )

    def sample(self, prefix: str, **inputs: Any) -> None:
        """A KSampler with a fixed seed, and a file of what it returns."""
        sampled = self.node("KSampler", seed=1, sampler_name="euler", denoise=1.0, **inputs)
        self.node("SaveLatent", samples=sampled, filename_prefix=prefix)


def out(link: list, index: int) -> list:
    return [link[0], index]
