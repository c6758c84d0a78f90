"""Errors that a user can act on: printed as one readable line, never as a traceback."""

import re

# Control characters, and those that turn the direction of writing: a terminal would obey them.
_COMMANDS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text as a terminal may show it, line ends left: what would command the terminal is shown as an escape.

    File names, tags and the like may hold anything.
    """
    return _COMMANDS.sub(lambda found: repr(found[0])[1:-1], text)


def excerpt(text: str) -> str:
    """The text in quotes, with escapes, and cut to 80 characters."""
    return repr(text if len(text) <= 80 else f"{text[:79]}…")


def first_line(error: Exception) -> str:
    """The first line of what a library's error says, or its class's name where it says nothing."""
    return (str(error) or type(error).__name__).split("\n", 1)[0]


class UserError(Exception):
    """Something the user can put right; `socialtag` prints it on one line and exits with `exit_code`.

    Args:
      what: what is wrong, with the value that was found and the value that was expected.
      where: the file, row, offset, layer or flag that it is about.
      hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, hint: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        """One line, whatever libraries that the error passes through have added to its arguments, as grain does."""
        line = self.what if self.where is None else f"{self.where}: {self.what}"
        return line if self.hint is None else f"{line} -- {self.hint}"


class MissingPackageError(UserError):
    """An optional package is not installed, or cannot be imported; the hint says how it is."""


class UsageError(UserError):
    """A command line, or a configuration, that asks for something that does not exist."""

    exit_code = 2
