"""The tensors of Stable Diffusion checkpoints and of LoRAs for them: names and shapes, no data.

Derived from the architectures' own figures, in the original (ldm) key names that checkpoints and
kohya's LoRA files have. The benchmarks and the host tests fill them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Depths = tuple[int | tuple[int, ...], ...]

RESIDUAL_BLOCKS = 2  # a level on the way down; one more on the way up
# A middle of one residual block, and none at all: numbers as ComfyUI has them.
NO_TRANSFORMER, NO_MIDDLE = -1, -2
TOKENS, POSITIONS = 49408, 77


@dataclass(frozen=True)
class UNet:
    """The figures of a UNet: `multipliers` of `channels` and transformer blocks, a level each.

    Attributes:
        depths: transformer blocks after each residual block of a level, or of each of them in turn.
        middle: transformer blocks in the middle; 0 for as many as in the last level.
        linear: the transformers' proj_in and proj_out; SD1.x has 1x1 convolutions.
        upward: `depths` on the way up, in the same order of levels; the same ones if left out.
        residual: residual blocks of a level on the way down; one more on the way up.
    """

    channels: int
    multipliers: tuple[int, ...]
    depths: Depths
    context: int
    pooled: int = 0
    middle: int = 0
    linear: bool = True
    upward: Depths = ()
    residual: int = RESIDUAL_BLOCKS

    @property
    def embedding(self) -> int:
        return 4 * self.channels

    @property
    def down(self) -> tuple[tuple[int, ...], ...]:
        """For each level, the transformer blocks after each of its residual blocks."""
        return tuple(_each(depth, self.residual) for depth in self.depths)

    @property
    def up(self) -> tuple[tuple[int, ...], ...]:
        """The same on the way up, in the order of `down`."""
        return tuple(_each(depth, self.residual + 1) for depth in self.upward or self.depths)

    @property
    def centre(self) -> tuple[int, ...]:
        """The transformer blocks after each residual block of the middle."""
        if self.middle == NO_MIDDLE:
            return ()
        return (0,) if self.middle == NO_TRANSFORMER else (self.middle or self.down[-1][-1], 0)

    def narrowed(self, channels: int) -> "UNet":
        """The same at another width, what goes into it included."""
        context, pooled = (n * channels // self.channels for n in (self.context, self.pooled))
        return replace(self, channels=channels, context=context, pooled=pooled)


def _each(depth: int | tuple[int, ...], blocks: int) -> tuple[int, ...]:
    return (depth,) * blocks if isinstance(depth, int) else depth


SDXL = UNet(320, (1, 2, 4), (0, 2, 10), context=2048, pooled=2816)
# SDXL's pruned children; the figures are those by which ComfyUI 0.33.0 knows them.
SSD_1B = replace(SDXL, depths=(0, 2, 4), upward=(0, (2, 1, 1), (4, 4, 10)), middle=NO_TRANSFORMER)
VEGA = replace(SDXL, depths=(0, 1, 2), middle=NO_TRANSFORMER)
KOALA_1B = replace(SDXL, depths=(0, 2, 6), residual=1)
KOALA_700M = replace(SDXL, depths=(0, 2, 5), residual=1, middle=NO_MIDDLE)
SD15 = UNet(320, (1, 2, 4, 4), (1, 1, 1, 0), context=768, middle=1, linear=False)
# An SD1.5 with one level of four: what makes a host call it SD1.5 is all there.
SMALL_SD15 = UNet(320, (1,), (1,), context=768, linear=False)


def sdxl_checkpoint() -> Shapes:
    """Every floating-point tensor of a full SDXL checkpoint."""
    return (
        _under("model.diffusion_model.", unet(SDXL))
        | _under("conditioner.embedders.0.transformer.text_model.", _clip_l())
        | _under("conditioner.embedders.1.model.", _clip_g())
        | _vae()
    )


def sd15_checkpoint() -> Shapes:
    """Every floating-point tensor of a full SD1.5 checkpoint."""
    return (
        _under("model.diffusion_model.", unet(SD15))
        | _under("cond_stage_model.transformer.text_model.", _clip_l())
        | _vae()
    )


def small_sd15_checkpoint() -> Shapes:
    """A small UNet with the real text encoder and the real VAE of SD1.5: 0.2 B parameters."""
    return (
        _under("model.diffusion_model.", unet(SMALL_SD15))
        | _under("cond_stage_model.transformer.text_model.", _clip_l())
        | _vae()
    )


def file_header(shapes: Shapes, metadata: Mapping[str, str] | None = None) -> bytes:
    """The first bytes of a safetensors file of such tensors in fp16, whose data follow in order."""
    header: dict[str, Mapping[str, object]] = {"__metadata__": metadata} if metadata else {}
    start = 0
    for name, shape in shapes.items():
        end = start + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class LoraModule:
    """A module of kohya's naming; its update is m x n."""

    name: str
    m: int
    n: int


def sdxl_lora_modules() -> tuple[LoraModule, ...]:
    """What kohya's trainer attaches to by default: the transformers of the UNet, both encoders."""
    return (*_lora_of_unet(), *_lora_of_text_encoders())


def _lora_of_unet() -> Iterator[LoraModule]:
    for name, shape in unet(SDXL).items():
        parts = name.split(".")
        is_transformer = "transformer_blocks" in parts or parts[-2] in ("proj_in", "proj_out")
        if is_transformer and len(shape) == 2:
            yield LoraModule("lora_unet_" + "_".join(parts[:-1]), *shape)


def _lora_of_text_encoders() -> Iterator[LoraModule]:
    for kohya, layers, width in (("lora_te1", 12, 768), ("lora_te2", 32, 1280)):
        for layer in range(layers):
            start = f"{kohya}_text_model_encoder_layers_{layer}"
            for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield LoraModule(f"{start}_self_attn_{projection}", width, width)
            yield LoraModule(f"{start}_mlp_fc1", 4 * width, width)
            yield LoraModule(f"{start}_mlp_fc2", width, 4 * width)


def lcm_lora_modules(figures: UNet) -> Shapes:
    """The modules of an LCM-LoRA in the diffusers library's names, with their weights' shapes.

    All that diffusers' train_lcm_distill_lora_*.py attaches to: the convolutions and projections of
    every residual block and transformer, and those between levels; not the first and last layers
    nor the embeddings.
    """
    shapes: Shapes = {}
    width, skipped = figures.channels, [figures.channels]
    levels = list(zip(figures.multipliers, figures.down, strict=True))
    for level, (multiplier, depths) in enumerate(levels):
        start = f"down_blocks.{level}"
        for i, depth in enumerate(depths):
            out = figures.channels * multiplier
            shapes |= _lcm_block(start, i, width, out, depth, figures)
            width = out
            skipped.append(width)
        if level < len(levels) - 1:
            shapes[f"{start}.downsamplers.0.conv"] = (width, width, 3, 3)
            skipped.append(width)
    for i, depth in enumerate(figures.centre):
        shapes |= _lcm_block("mid_block", i, width, width, depth, figures)
    ascent = list(zip(figures.multipliers, figures.up, strict=True))
    for level, (multiplier, depths) in enumerate(reversed(ascent)):
        start = f"up_blocks.{level}"
        for i, depth in enumerate(depths):
            out = figures.channels * multiplier
            shapes |= _lcm_block(start, i, width + skipped.pop(), out, depth, figures)
            width = out
        if level < len(levels) - 1:
            shapes[f"{start}.upsamplers.0.conv"] = (width, width, 3, 3)
    return shapes


def _lcm_block(start: str, i: int, into: int, out: int, depth: int, figures: UNet) -> Shapes:
    """A residual block, and the transformer after it where there is one."""
    resnet = f"{start}.resnets.{i}"
    shapes: Shapes = {
        f"{resnet}.conv1": (out, into, 3, 3),
        f"{resnet}.time_emb_proj": (out, figures.embedding),
        f"{resnet}.conv2": (out, out, 3, 3),
    }
    if into != out:
        shapes[f"{resnet}.conv_shortcut"] = (out, into, 1, 1)
    if depth:
        matrices = {k: s for k, s in _transformer(out, depth, figures).items() if len(s) >= 2}
        transformer = {k.removesuffix(".weight"): shape for k, shape in matrices.items()}
        shapes |= _under(f"{start}.attentions.{i}.", transformer)
    return shapes


# Layers


def _under(prefix: str, shapes: Mapping[str, Shape]) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def _affine(*weight: int) -> Shapes:
    return {"weight": weight, "bias": weight[:1]}


def _conv(out: int, into: int, kernel: int = 3) -> Shapes:
    return _affine(out, into, kernel, kernel)


def _module(layers: Mapping[str, Shapes]) -> Shapes:
    return {f"{name}.{part}": s for name, parts in layers.items() for part, s in parts.items()}


# UNet


def unet(figures: UNet) -> Shapes:
    channels, embedding = figures.channels, figures.embedding
    layers = {
        "time_embed.0": _affine(embedding, channels),
        "time_embed.2": _affine(embedding, embedding),
        "input_blocks.0.0": _conv(channels, 4),
        "out.0": _affine(channels),
        "out.2": _conv(4, channels),
    }
    if figures.pooled:
        layers["label_emb.0.0"] = _affine(embedding, figures.pooled)
        layers["label_emb.0.2"] = _affine(embedding, embedding)
    width, skipped, block = channels, [channels], 1
    for level, (multiplier, depths) in enumerate(
        zip(figures.multipliers, figures.down, strict=True)
    ):
        if level > 0:
            layers[f"input_blocks.{block}.0.op"] = _conv(width, width)
            skipped.append(width)
            block += 1
        for depth in depths:
            layers[f"input_blocks.{block}.0"] = _resnet(width, channels * multiplier, embedding)
            width = channels * multiplier
            if depth:
                layers[f"input_blocks.{block}.1"] = _transformer(width, depth, figures)
            skipped.append(width)
            block += 1

    for i, depth in enumerate(figures.centre):  # a transformer between two residual blocks
        layers[f"middle_block.{2 * i}"] = _resnet(width, width, embedding)
        if depth:
            layers["middle_block.1"] = _transformer(width, depth, figures)

    block = 0
    ascent = list(zip(figures.multipliers, figures.up, strict=True))
    for level, (multiplier, depths) in reversed(list(enumerate(ascent))):
        for i, depth in enumerate(depths):
            out = channels * multiplier
            layers[f"output_blocks.{block}.0"] = _resnet(width + skipped.pop(), out, embedding)
            width = out
            if depth:
                layers[f"output_blocks.{block}.1"] = _transformer(width, depth, figures)
            if level > 0 and i == figures.residual:
                part = 2 if depth else 1
                layers[f"output_blocks.{block}.{part}.conv"] = _conv(width, width)
            block += 1
    return _module(layers)


def _resnet(into: int, out: int, embedding: int) -> Shapes:
    layers = {
        "in_layers.0": _affine(into),
        "in_layers.2": _conv(out, into),
        "emb_layers.1": _affine(out, embedding),
        "out_layers.0": _affine(out),
        "out_layers.3": _conv(out, out),
    }
    if into != out:
        layers["skip_connection"] = _conv(out, into, 1)
    return _module(layers)


def _transformer(width: int, depth: int, figures: UNet) -> Shapes:
    projection = _affine(width, width) if figures.linear else _conv(width, width, 1)
    layers = {"norm": _affine(width), "proj_in": projection}
    for block in range(depth):
        start = f"transformer_blocks.{block}"
        for attention, context in (("attn1", width), ("attn2", figures.context)):
            for name, into in (("to_q", width), ("to_k", context), ("to_v", context)):
                layers[f"{start}.{attention}.{name}"] = {"weight": (width, into)}
            layers[f"{start}.{attention}.to_out.0"] = _affine(width, width)
        layers[f"{start}.ff.net.0.proj"] = _affine(8 * width, width)  # GEGLU: value and gate
        layers[f"{start}.ff.net.2"] = _affine(width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            layers[f"{start}.{norm}"] = _affine(width)
    layers["proj_out"] = projection
    return _module(layers)


# Text encoders


def _clip_l(width: int = 768, layers: int = 12) -> Shapes:
    shapes: Shapes = {
        "embeddings.token_embedding.weight": (TOKENS, width),
        "embeddings.position_embedding.weight": (POSITIONS, width),
    }
    block = _module(
        {f"self_attn.{p}_proj": _affine(width, width) for p in ("q", "k", "v", "out")}
        | {"mlp.fc1": _affine(4 * width, width), "mlp.fc2": _affine(width, 4 * width)}
        | {"layer_norm1": _affine(width), "layer_norm2": _affine(width)}
    )
    for layer in range(layers):
        shapes |= _under(f"encoder.layers.{layer}.", block)
    return shapes | _under("final_layer_norm.", _affine(width))


def _clip_g(width: int = 1280, layers: int = 32) -> Shapes:
    shapes: Shapes = {
        "token_embedding.weight": (TOKENS, width),
        "positional_embedding": (POSITIONS, width),
        "text_projection": (width, width),
        "logit_scale": (),
    }
    block = {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
    block |= _module(
        {"attn.out_proj": _affine(width, width)}
        | {"mlp.c_fc": _affine(4 * width, width), "mlp.c_proj": _affine(width, 4 * width)}
        | {"ln_1": _affine(width), "ln_2": _affine(width)}
    )
    for layer in range(layers):
        shapes |= _under(f"transformer.resblocks.{layer}.", block)
    return shapes | _under("ln_final.", _affine(width))


# VAE


def _vae(width: int = 128, multipliers: Shape = (1, 2, 4, 4), latent: int = 4) -> Shapes:
    widths = [width * multiplier for multiplier in multipliers]
    down, up = {"conv_in": _conv(width, 3)}, {"conv_in": _conv(widths[-1], latent)}
    into = width
    for level, out in enumerate(widths):
        for i in range(RESIDUAL_BLOCKS):
            down[f"down.{level}.block.{i}"] = _vae_resnet(into, out)
            into = out
        if level < len(widths) - 1:
            down[f"down.{level}.downsample.conv"] = _conv(out, out)
    for level, out in reversed(list(enumerate(widths))):
        for i in range(RESIDUAL_BLOCKS + 1):
            up[f"up.{level}.block.{i}"] = _vae_resnet(into, out)
            into = out
        if level > 0:
            up[f"up.{level}.upsample.conv"] = _conv(out, out)
    for half, end, out in ((down, widths[-1], 2 * latent), (up, width, 3)):
        half["mid.block_1"] = half["mid.block_2"] = _vae_resnet(widths[-1], widths[-1])
        half["mid.attn_1.norm"] = _affine(widths[-1])
        for projection in ("q", "k", "v", "proj_out"):
            half[f"mid.attn_1.{projection}"] = _conv(widths[-1], widths[-1], 1)
        half["norm_out"] = _affine(end)
        half["conv_out"] = _conv(out, end)
    layers = {"quant_conv": _conv(2 * latent, 2 * latent, 1)}
    layers |= {"post_quant_conv": _conv(latent, latent, 1)}
    halves = _under("encoder.", _module(down)) | _under("decoder.", _module(up))
    return _under("first_stage_model.", halves | _module(layers))


def _vae_resnet(into: int, out: int) -> Shapes:
    layers = {
        "norm1": _affine(into),
        "conv1": _conv(out, into),
        "norm2": _affine(out),
        "conv2": _conv(out, out),
    }
    if into != out:
        layers["nin_shortcut"] = _conv(out, into, 1)
    return _module(layers)
