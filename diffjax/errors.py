"""The one exception that a user's mistake raises."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user: one line that says what was wrong and what would be right.

    Launchers print the line to stderr and exit with status 2; any other exception is a bug.
    """


def first_line(error: Exception) -> str:
    """The first line of another library's error, or its name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """The names that may have been meant, at most three."""
    names = list(known)
    same = [other for other in names if other.lower() == name.lower()]
    return same or difflib.get_close_matches(name, names, n=3, cutoff=0.6)


class Stopped(BaseException):
    """Work that ended early because it was asked to, and can go on; ``status`` is that of the process.

    Like ``KeyboardInterrupt`` no ``Exception``: a signal may come anywhere, and nobody who handles errors is to take it
    for one.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among ``known``: names the closest ones, or lists all."""
    names = list(known)
    close = close_names(name, names)
    right = f"did you mean {' or '.join(close)}?" if close else f"one of: {', '.join(names) or '(none)'}"
    return UserError(f"unknown {kind} {name!r}; {right}")
