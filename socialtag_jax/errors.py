"""Errors that a user can act on: printed as one readable line, never as a traceback."""


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
        line = what if self.where is None else f"{self.where}: {what}"
        super().__init__(line if hint is None else f"{line} -- {hint}")


class UsageError(UserError):
    """A command line, or a configuration, that asks for something that does not exist."""

    exit_code = 2
