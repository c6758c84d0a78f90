"""Run as a program: a command of `socialtag` that is killed just before one of its changes to files.

    python -m tests.killed_at CHANGE FOLDER ARGUMENT...

Counts what it opens to write, renames, makes and deletes below FOLDER, and ends by SIGKILL before change number CHANGE.
With 0 it is not killed, and prints the number of changes as the last line on stderr.
"""

import os
import signal
import sys
from typing import Any

from socialtag_jax import cli

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")


def main() -> None:
    change, folder, arguments = int(sys.argv[1]), os.path.realpath(sys.argv[2]), sys.argv[3:]
    made = 0

    def watch(event: str, details: tuple[Any, ...]) -> None:
        nonlocal made
        writes = event == "open" and (details[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not (writes or event in _CHANGES) or not isinstance(details[0], str | bytes | os.PathLike):
            return
        if os.path.realpath(os.fsdecode(details[0])).startswith(folder):
            made += 1
            if made == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    try:
        cli.main(arguments)
    finally:
        if not change:
            print(made, file=sys.stderr)


if __name__ == "__main__":
    main()
