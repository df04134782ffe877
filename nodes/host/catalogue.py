"""Where the host lists the pack's nodes."""

from nodes import LoraLoader  # the host's own module of that name

# Beside the host's own LoRA loader: "loaders" in a host from June 2024, "model/loaders" later.
CATEGORY = f"{LoraLoader.CATEGORY}/ProLoRA"
