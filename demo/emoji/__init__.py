"""Emoji for ComfyUI: loader, prompt and decoder of the demo's small SD3-family models."""

from .loader import EmojiLoader
from .nodes import EmojiDecode, EmojiPrompt

NODE_CLASS_MAPPINGS = {
    "EmojiLoader": EmojiLoader,
    "EmojiPrompt": EmojiPrompt,
    "EmojiDecode": EmojiDecode,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "EmojiLoader": "Emoji Checkpoint Loader",
    "EmojiPrompt": "Emoji Prompt",
    "EmojiDecode": "Emoji Decode",
}
