"""`socialtag COMMAND`: parses the command line, and turns errors into one line and an exit code."""

import argparse
import errno
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from socialtag_jax.commands import (
    completion,
    data,
    doctor,
    evaluation,
    rate,
    report,
    serve,
    tagging,
    training,
    untag,
    verify_export,
)
from socialtag_jax.commands.arguments import GO_ON, START_OVER, Commands, Parser
from socialtag_jax.errors import UsageError, UserError, printable
from socialtag_jax.stopping import Stopped

_TOGETHER = ("--coordinator", "--processes", "--process", "--distributed")
_HINTS = {
    errno.ENOENT: "check how it is spelt, and that the folder that it lies in is there",
    errno.ENOTDIR: "a part of that path is a file: name another place",
    errno.EEXIST: "name another place, or move away what is there",
    errno.EISDIR: "that is a folder: name a file",
    errno.EACCES: "ask for permission, or name another place",
    errno.EPERM: "ask for permission, or name another place",
    errno.EROFS: "nothing can be written there: name another place",
    errno.ENOSPC: "make room on that disk, and run the same command again",
    errno.EDQUOT: "make room within your quota, and run the same command again",
    errno.ENAMETOOLONG: "name something shorter",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
}
"""What to do about the operating system's errors."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line; exits with 0 (or stopped by SIGTERM), 1 (failure), 2 (usage) or 130 (Ctrl-C)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # A file name that the terminal cannot show is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # orbax remarks on every folder that it opens to read.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        sys.exit(_run(arguments))
    except UserError as error:
        # Several lines, or control characters, in a file name must not break the one-line promise.
        message = printable(" ".join(str(error).split()))
        _show_error(message)
        # orbax's thread that sweeps a run's folder would remark, with a traceback, that the interpreter has gone.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "socialtag_jax"):
            raise
        # Installed with no more than a bundle's loader needs.
        _show_error(f"{package} is not installed -- pip install socialtag-jax")
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; so do we, quietly.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        hint = f" -- {_HINTS[error.errno]}" if error.errno in _HINTS else ""
        message = f"{error.filename or 'system'}: {error.strerror or error}{hint}"
        _show_error(printable(" ".join(message.split())))
        sys.exit(1)
    except MemoryError:
        _show_error("there is not enough memory")
        sys.exit(1)
    except Stopped as stopped:
        print(f"\nsocialtag: {stopped}; {GO_ON}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt as interrupt:
        print(f"\nsocialtag: interrupted; {interrupt.args[0] if interrupt.args else START_OVER}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # Everything of ours is closed; a compilation that XLA is still at would crash the interpreter's orderly end.
        os._exit(130)


def _show_error(message: str) -> None:
    prefix = "socialtag: error:"
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        prefix = f"\033[1;31m{prefix}\033[0m"
    print(f"{prefix} {message}", file=sys.stderr)


def _run(arguments: list[str]) -> int:
    parser, train = _parser()
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    if arguments[:1] == ["train"] and {"-h", "--help"} & set(arguments):
        return training.train_help(train, arguments[1:])
    options, rest = parser.parse_known_args(arguments)
    for word in rest:
        if (flag := word.partition("=")[0]) in _TOGETHER:
            raise UsageError("is for `socialtag train` alone", where=flag, hint="start it as one process")
    if options.command in ("train", "sweep"):
        options.overrides = rest
    elif rest:
        raise UsageError(
            f"unknown arguments: {' '.join(rest)}",
            where=options.command,
            hint=f"see socialtag {options.command} --help",
        )
    try:
        return options.run(options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(options.interrupted) from None


def _parser() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    from socialtag_jax import __version__

    parser = Parser(
        prog="socialtag",
        description="Train a photo-tag predictor on your own tagged photos, and use it.",
        epilog="`socialtag COMMAND --help` has examples. Exit codes: 0 done, or stopped by SIGTERM and ready to go on; "
        "1 failed; 2 the command line is wrong; 130 stopped by Ctrl-C. On a terminal errors are red, but for NO_COLOR.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"socialtag-jax {__version__}")
    commands = Commands(parser)
    data.add_prepare(commands)
    data.add_stats(commands)
    data.add_preview(commands)
    data.add_weights(commands)
    train = training.add_train(commands)
    training.add_sweep(commands)
    evaluation.add_evaluate(commands)
    report.add_report(commands)
    tagging.add_export(commands)
    tagging.add_predict(commands)
    untag.add_untag(commands)
    verify_export.add_verify_export(commands)
    serve.add_serve(commands)
    rate.add_rate(commands)
    doctor.add_doctor(commands)
    completion.add_completion(commands, parser)
    return parser, train


if __name__ == "__main__":
    main()
