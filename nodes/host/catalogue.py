"""Where the host lists the pack's nodes."""

import sys

# The host's own module of that name, which is loaded before any pack. To import it by name would
# be to confuse it with the pack's.
_HOST_NODES = sys.modules["nodes"]

# Beside the host's own LoRA loader: "loaders" in a host from June 2024, "model/loaders" later.
CATEGORY = f"{_HOST_NODES.LoraLoader.CATEGORY}/ProLoRA"
