"""Emoji for ComfyUI: the prompt and the decoder of the demo's small SD3-family models."""

from .nodes import EmojiDecode, EmojiPrompt

NODE_CLASS_MAPPINGS = {"EmojiPrompt": EmojiPrompt, "EmojiDecode": EmojiDecode}
NODE_DISPLAY_NAME_MAPPINGS = {"EmojiPrompt": "Emoji Prompt", "EmojiDecode": "Emoji Decode"}
