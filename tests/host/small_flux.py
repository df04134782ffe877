"""A Flux of one double and one single block, 128 wide; random. And a control LoRA for it.

Newer hosts take the sizes from the weights. The control LoRA has the layout of Black Forest Labs'
own: PEFT's keys without a prefix, a bias for every up, the norms' new scales, and a first layer
with twice the inputs.
"""

import torch

WIDTH, CONTEXT, RANK = 128, 64, 4
PATCH = 64  # 16 channels in patches of 2 x 2

_STREAM = {
    "{}_mod.lin": (6 * WIDTH, WIDTH),
    "{}_attn.qkv": (3 * WIDTH, WIDTH),
    "{}_attn.proj": (WIDTH, WIDTH),
    "{}_mlp.0": (4 * WIDTH, WIDTH),
    "{}_mlp.2": (WIDTH, 4 * WIDTH),
}
LINEARS = {
    "img_in": (WIDTH, PATCH),
    "txt_in": (WIDTH, CONTEXT),
    **{f"{name}.in_layer": (WIDTH, 256) for name in ("time_in", "guidance_in")},
    "vector_in.in_layer": (WIDTH, 768),
    **{f"{name}.out_layer": (WIDTH, WIDTH) for name in ("time_in", "guidance_in", "vector_in")},
    **{
        f"double_blocks.0.{name.format(stream)}": shape
        for stream in ("img", "txt")
        for name, shape in _STREAM.items()
    },
    "single_blocks.0.linear1": (7 * WIDTH, WIDTH),
    "single_blocks.0.linear2": (WIDTH, 5 * WIDTH),
    "single_blocks.0.modulation.lin": (3 * WIDTH, WIDTH),
    "final_layer.linear": (PATCH, WIDTH),
    "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
}
NORMS = [
    *(f"double_blocks.0.{stream}_attn.norm.{n}_norm" for stream in ("img", "txt") for n in "qk"),
    *(f"single_blocks.0.norm.{n}_norm" for n in "qk"),
]
NORMS = [name.replace(".q_", ".query_").replace(".k_", ".key_") for name in NORMS]


def flux() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (m, n) in LINEARS.items():
        tensors[f"{name}.weight"] = torch.randn(m, n, generator=random) * n**-0.5
        tensors[f"{name}.bias"] = torch.randn(m, generator=random) * 0.1
    return tensors | {f"{name}.scale": torch.ones(WIDTH) for name in NORMS}


def control_lora() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    tensors = {}
    for name, (m, n) in LINEARS.items():
        inputs = 2 * n if name == "img_in" else n
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, inputs, generator=random) * n**-0.5
        tensors[f"{name}.lora_B.weight"] = torch.randn(m, RANK, generator=random)
        tensors[f"{name}.lora_B.bias"] = torch.randn(m, generator=random)
    return tensors | {f"{n}.scale": torch.rand(WIDTH, generator=random) + 0.5 for n in NORMS}
