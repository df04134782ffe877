"""Names of files that somebody else wrote down."""

from pathlib import Path

from ..errors import ProLoRAError, one_line


def check_name(path: Path) -> Path:
    """The path itself, whether there is a file or not.

    Raises:
        ProLoRAError: no file can be called so: it is too long, or has letters that no name has.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # which has sentences of its own where the file is opened
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProLoRAError(f"No file can be called {one_line(path)!r}: {reason}.") from None
    return path
