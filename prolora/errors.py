"""The one exception that the core raises on purpose."""


class ProLoRAError(ValueError):
    """Something the user can act on.

    The message is written for an artist: what is wrong, in which file or module, with which
    shapes, and what to do about it.
    """
