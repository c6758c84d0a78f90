"""What commands share: how they are added, options and types of the command line, and lines to stderr."""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from socialtag_jax.errors import UsageError, printable

_EXAMPLES = "examples:\n"
START_OVER = "run the same command again to start over"
GO_ON = "run the same command again to go on"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of examples as they are, here and in the documentation's reference; the rest is wrapped."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(_EXAMPLES):
            return text
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


class Parser(argparse.ArgumentParser):
    """Whose errors are ours: one line, and what to do."""

    def error(self, message: str) -> NoReturn:
        """Raises a `UsageError`, where argparse would print the whole usage and exit."""
        command = self.prog.removeprefix("socialtag").strip() or None
        raise UsageError(message, where=command, hint=f"see {self.prog} --help")


class Commands:
    """The commands of a parser.

    Args:
      parser: gets `--help` and usage errors for them.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int] | None,
        text: str,
        *,
        examples: str,
        interrupted: str = START_OVER,
        **options: Any,
    ) -> argparse.ArgumentParser:
        """A command, to which its options are added.

        Args:
          name: what is typed.
          run: parsed command line -> exit code; None where the command's own actions say.
          text: what it does, in a line.
          examples: lines that can be typed, each indented, and what else is to be said; shown as they are.
          interrupted: what to do after Ctrl-C.
          **options: of `ArgumentParser`.
        """
        command = self._parsers.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"{_EXAMPLES}{examples}",
            formatter_class=_Help,
            allow_abbrev=False,
            **options,
        )
        command.set_defaults(run=run, interrupted=interrupted)
        return command


def log(line: str) -> None:
    """One line to stderr: stdout belongs to results."""
    print(printable(line), file=sys.stderr, flush=True)


def add_allow_outside(parser: argparse.ArgumentParser) -> None:
    """`--allow-outside`, of commands that read a CSV file."""
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="tags-csv: take photos that lie outside the CSV file's folder: absolute paths, .. and symbolic links",
    )


def add_pruning(parser: argparse.ArgumentParser) -> None:
    """`--pruning` and `--balancing`."""
    from socialtag_jax.rules import BALANCING, PRESETS, PRUNING, describe

    pruning = f"drop tags and photos, in this order: {describe(PRUNING, PRESETS)}"
    parser.add_argument("--pruning", nargs="+", default=[], metavar="RULE", help=pruning)
    balancing = f"take frequent tags from training photos, at random: {describe(BALANCING)}"
    parser.add_argument("--balancing", nargs="+", default=[], metavar="RULE", help=balancing)


def add_json(parser: Any) -> None:
    """`--json`; `parser` may be a group of one."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """`--checkpoint`, of commands that read a run."""
    parser.add_argument(
        "--checkpoint", default="best", help="best (on the validation split; default), latest, or a step"
    )


def add_hosting(parser: argparse.ArgumentParser, default_port: int) -> None:
    """`--host`, `--port` and `--allow-host`, of commands that serve a page."""
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default 127.0.0.1: this computer alone); whoever reaches it needs no password",
    )
    parser.add_argument("--port", type=port, default=default_port, help=f"0 for any free one (default {default_port})")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which browsers may call this server, besides its own and addresses in figures; may be repeated",
    )


def port(text: str) -> int:
    """Argument type: a port's number, or 0."""
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 65535")
    return int(text)


def positive(text: str) -> int:
    """Argument type: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def at_least_two(text: str) -> int:
    """Argument type: a whole number of at least 2."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 2")
    return int(text)


def not_negative(text: str) -> int:
    """Argument type: a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def amount(text: str) -> float:
    """Argument type: a share below 1, or a number of photos."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a share below 1 nor a number of photos") from None
