"""A CLIP of the graph as the core's TextNetwork."""

from typing import Any

from ...prolora.recording.network import TextNetwork
from .failures import memory_explained
from .network import layers_of


def text_network_of(clip: Any) -> TextNetwork:
    """The TextNetwork of a CLIP, by the keys of its weights in a Model. It stays unchanged."""

    def encode(text: str) -> object:
        with memory_explained():
            return clip.encode_from_tokens(clip.tokenize(text))  # the host loads it for this

    return TextNetwork(layers_of(clip.patcher.model), encode)
