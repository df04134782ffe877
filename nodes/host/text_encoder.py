"""A CLIP of the graph: texts to a CONDITIONING, and as the core's TextNetwork."""

from collections.abc import Callable, Sequence
from typing import Any

from ...prolora.recording.network import TextNetwork
from .conditioning import TEXT
from .failures import memory_explained
from .network import layers_of


def text_network_of(clip: Any) -> TextNetwork:
    """The TextNetwork of a CLIP, by the keys of its weights in a Model. It stays unchanged."""

    def encode(text: str) -> object:
        with memory_explained():
            return clip.encode_from_tokens(clip.tokenize(text))  # the host loads it for this

    return TextNetwork(layers_of(clip.patcher.model), encode)


def encode(
    clip: Any, texts: Sequence[str], progress: Callable[[int, int, str], None]
) -> list[list[Any]]:
    """A CONDITIONING with each text as the host's own node encodes it, and the text beside it."""
    conditioning: list[list[Any]] = []
    with memory_explained():
        for done, text in enumerate(texts):
            progress(done, len(texts), text)
            tokens = clip.tokenize(text)
            if hasattr(clip, "encode_from_tokens_scheduled"):
                encoded = clip.encode_from_tokens_scheduled(tokens)
            else:  # a host from June 2024
                embedding, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
                encoded = [[embedding, {"pooled_output": pooled}]]
            conditioning += [[entry, {**others, TEXT: text}] for entry, others in encoded]
    return conditioning
