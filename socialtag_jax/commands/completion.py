"""`completion`: the shell completes commands, options and files."""

import argparse

from socialtag_jax.commands.arguments import Commands
from socialtag_jax.storage import local_path, location

_EXAMPLES = """\
  eval "$(socialtag completion bash)"                                      # in ~/.bashrc
  eval "$(socialtag completion zsh)"                                       # in ~/.zshrc, after compinit
  socialtag completion tcsh > ~/.socialtag.completion.csh                  # to be sourced in ~/.tcshrc"""


def add_completion(commands: Commands, parser: argparse.ArgumentParser) -> None:
    """`socialtag completion`, of everything that `parser` knows in the end."""
    command = commands.add("completion", None, "Print a script that completes commands in a shell.", examples=_EXAMPLES)
    command.add_argument("shell", choices=("bash", "zsh", "tcsh"))

    def run(options: argparse.Namespace) -> int:
        import shtab

        _complete_files(parser)
        print(shtab.complete(parser, options.shell))
        return 0

    command.set_defaults(run=run)


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Has every argument that is a path completed as one."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in set(action.choices.values()):
                _complete_files(command)
        elif action.type in (local_path, location):
            action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue] - read by shtab
