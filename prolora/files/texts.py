"""Text files that users write: pairs, tables, prompts."""

from pathlib import Path

from ..errors import ProLoRAError


def read_text(path: Path) -> str:
    """What a text file holds, without the mark that Notepad and Excel begin it with.

    Raises:
        ProLoRAError: there is none, it cannot be read, or it is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ProLoRAError(f"{path} does not exist. Is the name right?") from None
    except IsADirectoryError:
        raise ProLoRAError(f"{path} is a folder. Choose a file in it.") from None
    except UnicodeDecodeError as error:
        raise ProLoRAError(
            f"{path} is no text in UTF-8. Save it as UTF-8, if it is the right file."
        ) from error
    except OSError as error:
        raise ProLoRAError(f"{path} cannot be read: {error}. May this file be read?") from error
