"""The model: ComfyUI's own SD3 class at width 192, its files, and a LoRA on its linear layers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from comfy.cli_args import args
from safetensors.torch import load_file, save_file
from torch import nn

from demo.emoji.depth import count_blocks, set_depth
from demo.emoji.prompt import CONTEXT_SIZE, POOLED_SIZE

# ComfyUI chooses its device and its attention while it is imported.
args.cpu, args.use_pytorch_cross_attention = True, True
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper  # noqa: E402

DEPTH = 3
HIDDEN = 64 * DEPTH  # the host reads the depth off this width
PREFIX = "model.diffusion_model."
MODELS = Path(__file__).resolve().parent.parent / "models"


def build_model(blocks: int = DEPTH) -> nn.Module:
    """Return a fresh model in float32; seeded by torch's global generator.

    Patch size 2 (4 x 4 tokens), no stored position table: the host computes one. Gates and the last
    layer start at zero, so each block begins as the identity.
    """
    model = OpenAISignatureMMDITWrapper(
        input_size=None,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        depth=DEPTH,
        adm_in_channels=POOLED_SIZE,
        context_embedder_config={
            "target": "torch.nn.Linear",
            "params": {"in_features": CONTEXT_SIZE, "out_features": HIDDEN},
        },
        qk_norm="rms",
        dtype=torch.float32,
        operations=nn,
    )
    set_depth(model, blocks)
    for name, parameter in model.named_parameters():
        if "ln_q" in name or "ln_k" in name:
            nn.init.ones_(parameter)
        elif "adaLN_modulation" in name or name.startswith("final_layer") or "bias" in name:
            nn.init.zeros_(parameter)
        else:
            nn.init.xavier_uniform_(parameter.flatten(1))
    return model


def save_model(model: nn.Module, path: Path) -> None:
    """Write a checkpoint in float16, under the keys by which ComfyUI detects SD3."""
    state = {PREFIX + key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, path)


def load_model(path: Path) -> nn.Module:
    """Read a checkpoint back, in float32."""
    state = {key.removeprefix(PREFIX): value.float() for key, value in load_file(path).items()}
    model = build_model(count_blocks(state))
    model.load_state_dict(state)
    return model.eval()


class Lora(nn.Module):
    """A LoRA on attention and MLP of both streams: `scale * up @ down` beside each linear layer."""

    TARGETS = (".attn.qkv", ".attn.proj", ".mlp.fc1", ".mlp.fc2")

    def __init__(self, model: nn.Module, rank: int = 8, alpha: float = 8.0) -> None:
        super().__init__()
        self.alpha, self.scale = alpha, alpha / rank
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for key, layer in self._layers(model):
            out_features, in_features = layer.weight.shape
            self.down[key] = nn.Parameter(torch.randn(rank, in_features) / in_features**0.5)
            self.up[key] = nn.Parameter(torch.zeros(out_features, rank))

    def _layers(self, model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
        """The layers that carry the LoRA, by the key that kohya's files and ComfyUI give them."""
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear) and name.endswith(self.TARGETS):
                yield "lora_unet_" + name.replace(".", "_"), layer

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Let the model compute with the LoRA inside the block."""

        def hook(key: str) -> Callable[..., torch.Tensor]:
            return lambda layer, inputs, output: self.effect(key, layer, inputs[0], output)

        handles = [layer.register_forward_hook(hook(key)) for key, layer in self._layers(model)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def effect(
        self, key: str, layer: nn.Linear, inputs: torch.Tensor, output: torch.Tensor
    ) -> torch.Tensor:
        """What a layer puts out with it, of its inputs and what it puts out without."""
        return output + self.scale * (inputs @ self.down[key].T @ self.up[key].T)

    def save(self, path: Path) -> None:
        """Write the file in float16 with kohya's keys."""
        state = {
            f"{key}.{part}": tensor.detach().half().contiguous()
            for key in self.down
            for part, tensor in (self.tensors(key) | {"alpha": torch.tensor(self.alpha)}).items()
        }
        save_file(state, path)

    def tensors(self, key: str) -> dict[str, torch.Tensor]:
        """What the file has of a layer beside alpha, by the end of its keys."""
        return {"lora_down.weight": self.down[key], "lora_up.weight": self.up[key]}

    @torch.no_grad()
    def load(self, path: Path, source_key: Callable[[str], str | None] = str) -> "Lora":
        """Read the factors of a file; `source_key` gives the file's key for one of ours.

        A layer may have another rank there: of a fused weight the ranks of its parts add up. One of
        which the file has nothing stays as it was made, without effect.
        """
        state = load_file(path)
        for key in self.down:
            source = source_key(key)
            if f"{source}.alpha" in state:
                down = state[f"{source}.lora_down.weight"].float()
                scale = float(state[f"{source}.alpha"]) / len(down)
                up = state[f"{source}.lora_up.weight"].float() * (scale / self.scale)
                self.down[key], self.up[key] = nn.Parameter(down), nn.Parameter(up)
        return self
