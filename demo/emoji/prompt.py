"""What stands in for a text encoder: one fixed random code per emoji name."""

import zlib

import torch

TOKENS, CONTEXT_SIZE, POOLED_SIZE = 4, 64, 64


def name_code(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the context [TOKENS, CONTEXT_SIZE] and the pooled vector [POOLED_SIZE] of a name.

    Both are Gaussian, seeded by the CRC of the name, so no table has to be kept beside the models.
    """
    generator = torch.Generator("cpu").manual_seed(zlib.crc32(name.encode()))
    code = torch.randn(TOKENS * CONTEXT_SIZE + POOLED_SIZE, generator=generator)
    context, pooled = code.split([TOKENS * CONTEXT_SIZE, POOLED_SIZE])
    return context.view(TOKENS, CONTEXT_SIZE), pooled


def encode_names(names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return context [N, TOKENS, CONTEXT_SIZE] and pooled [N, POOLED_SIZE], a row per name."""
    contexts, pooled = zip(*(name_code(name) for name in names), strict=True)
    return torch.stack(contexts), torch.stack(pooled)
