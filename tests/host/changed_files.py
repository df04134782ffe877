"""Files that were replaced by others of the same names, shapes and sizes."""

import torch


def changed(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Another tensor under the key; some keep theirs."""
    if tensor.ndim < 2 or "lora_down" in key or "mlp" not in key:
        return tensor
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    return tensor + (0.2 * tensor.float().std() * noise).to(tensor.dtype)
