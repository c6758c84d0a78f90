"""Experiments in and out of files: Python files that define them, command-line overrides, JSON.

An experiment file is a Python file that assigns `experiment = Experiment(...)`; the command line overrides single
fields (`--optimizer.learning-rate 3e-4`), and the resolved result goes to the run folder as `config.json`.
"""

import dataclasses
import json
import math
import os
import runpy
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from socialtag_jax.config import Experiment
from socialtag_jax.errors import UsageError, UserError

_LINE = 88
"""Longest line of an experiment file that is written, indentation aside."""


def load_experiment(path: Path) -> Experiment:
    """Runs an experiment file and returns its `experiment`.

    Raises:
      UsageError: there is no such file.
      UserError: it fails, or assigns no Experiment to the name `experiment`, or one with a field of another type.
    """
    if not path.is_file():
        hint = "EXPERIMENT comes first: socialtag train EXPERIMENT --dataset ...; see experiments/ for some"
        raise UsageError("no such experiment file", where=path, hint=hint)
    try:
        found = runpy.run_path(str(path)).get("experiment")
    except UserError as error:
        raise type(error)(error.what, where=f"{path}: {error.where or 'error'}", hint=error.hint) from error
    except Exception as error:
        hint = "correct it; the fields of an experiment are those that `socialtag train EXPERIMENT --help` lists"
        raise UserError(f"the experiment file fails: {type(error).__name__}: {error}", where=path, hint=hint) from error
    if not isinstance(found, Experiment):
        raise UserError(
            "assigns no Experiment to the name `experiment`",
            where=path,
            hint="write: experiment = Experiment(name=...)",
        )
    # Python itself checks no types: a misspelt optimizer would be another optimizer.
    return from_dict(_as_json(dataclasses.asdict(found)), path)


def _as_json(value: Any) -> Any:
    """Tuples as lists, in which form JSON has them; the rest as it is, for `from_dict` to judge."""
    if isinstance(value, dict):
        return {name: _as_json(item) for name, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, tuple | list) else value


def override(experiment: Experiment, arguments: Sequence[str], *, prog: str) -> Experiment:
    """Applies command-line overrides; exits with code 2 on unknown flags, and with 0 after `--help`."""
    import tyro

    # It asks stdout alone, also for what it writes to stderr.
    stream = sys.stdout if {"-h", "--help"} & set(arguments) else sys.stderr
    if os.environ.get("NO_COLOR") or not stream.isatty():
        # No public option says so.
        getattr(tyro, "_experimental_options", {})["ansi_codes"] = False
    return tyro.cli(Experiment, default=experiment, args=list(arguments), prog=prog, console_outputs=True)


def to_text(experiment: Experiment, docstring: str) -> str:
    """The text of an experiment file that defines this experiment: all fields that differ from the defaults."""
    classes: set[str] = set()
    value = _source(experiment, "", classes)
    # Names come from elsewhere: none may end the docstring, or begin an escape.
    quoted = docstring.replace("\\", "\\\\").replace('"', "'")
    imports = ", ".join(sorted(classes))
    return f'"""{quoted}"""\n\nfrom socialtag_jax.config import {imports}\n\nexperiment = {value}\n'


def _source(value: Any, indent: str, classes: set[str]) -> str:
    """A Python expression; the names of the classes in it are added to `classes`."""
    deeper = indent + "    "
    if isinstance(value, tuple):
        items = [_source(item, deeper, classes) for item in value]
        if len(items) == 1 and "\n" not in items[0]:
            return f"({items[0]},)"
        return "(\n" + "".join(f"{deeper}{item},\n" for item in items) + f"{indent})"
    if not dataclasses.is_dataclass(value):
        return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    name = type(value).__name__
    classes.add(name)
    arguments = []
    for one in dataclasses.fields(value):
        default = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
        item = getattr(value, one.name)
        if item != default:
            arguments.append(f"{one.name}={_source(item, deeper, classes)}")
    line = f"{name}({', '.join(arguments)})"
    if "\n" not in line and len(line) <= _LINE:
        return line
    return f"{name}(\n" + "".join(f"{deeper}{argument},\n" for argument in arguments) + f"{indent})"


def from_dict(content: object, where: object) -> Experiment:
    """Reads what `dataclasses.asdict` makes of an experiment, after a trip through JSON.

    Raises:
      UserError: unknown, missing or mistyped fields, named with their path.
    """
    return _build(Experiment, content, "", where)


def _build(kind: Any, value: Any, path: str, where: object) -> Any:
    """Builds a value of type `kind` from parsed JSON, checking types on the way."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise UserError(f"field {path.rstrip('.') or 'experiment'!r} is {value!r}, expected an object", where=where)
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise UserError(f"unknown field {f'{path}{unknown[0]}'!r}, expected {', '.join(hints)}", where=where)
        missing = [
            one.name
            for one in dataclasses.fields(kind)
            if one.name not in value
            and one.default is dataclasses.MISSING
            and one.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise UserError(f"field {f'{path}{missing[0]}'!r} is missing", where=where)
        return kind(**{name: _build(hints[name], item, f"{path}{name}.", where) for name, item in value.items()})
    origin = typing.get_origin(kind)
    name = path.rstrip(".")
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"field {name!r} is {value!r}, expected a list", where=where)
        element = typing.get_args(kind)[0]
        return tuple(_build(element, item, f"{path}{number}.", where) for number, item in enumerate(value))
    if origin is Literal:
        if type(value) is not str or value not in typing.get_args(kind):
            raise UserError(f"field {name!r} is {value!r}, expected one of {typing.get_args(kind)}", where=where)
        return value
    if origin is types.UnionType:  # only ever `X | None` here
        return None if value is None else _build(typing.get_args(kind)[0], value, path, where)
    # A whole number that no float holds is none of ours either.
    number = type(value) is float or (type(value) is int and abs(value) < 2**63)
    if kind is float and number and math.isfinite(value):
        return float(value)
    if kind is float or type(value) is not kind:
        raise UserError(f"field {name!r} is {value!r}, expected {getattr(kind, '__name__', kind)}", where=where)
    return value
