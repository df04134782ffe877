"""A finished file gets its name: that of an older one, or one that no file has yet."""

from pathlib import Path

from ..errors import ProLoRAError


class NameTaken(ProLoRAError):
    """There is a file of that name already."""


def give_name(temporary: Path, path: Path, overwrite: bool) -> None:
    """Renames a file; nothing is seen half under either name.

    Raises:
        NameTaken: there is a file of that name, also one that another program has just written.
        OSError: it cannot be renamed.
    """
    if overwrite:
        temporary.replace(path)
        return
    try:
        path.hardlink_to(temporary)  # which fails where there is one
    except FileExistsError:
        raise NameTaken(f"{path} exists. Choose another name.") from None
    except OSError:  # a disk without hard links, as memory cards are
        if path.exists():
            raise NameTaken(f"{path} exists. Choose another name.") from None
        temporary.replace(path)
    else:
        temporary.unlink()
