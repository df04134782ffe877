"""How a long job says how far it is."""

from collections.abc import Callable

# Called with how much is done, how much there is in all, and the name of what comes next; before
# each piece of work, and once at the end. Whatever it raises stops the job: that is how a user
# cancels.
Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, name: str) -> None:
    """For a job that nobody watches."""
