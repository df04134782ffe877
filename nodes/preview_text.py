"""Preview as Text for a host from June 2024, which has no such node of its own.

The shipped graphs show their texts with it. A host never lets a pack replace a node of its own, so
a newer one ignores this.
"""


class _Anything(str):
    """A type of input that takes every output: the host compares types by `!=`."""

    __hash__ = str.__hash__

    def __ne__(self, other):
        return False


class PreviewText:
    CATEGORY = "utils"
    DESCRIPTION = "Shows a text."
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "preview"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"source": (_Anything("*"),)}}

    def preview(self, source):
        return {"ui": {"text": [str(source)]}}
