"""A Sphinx directive that lists what an experiment can set, from the dataclasses of config.py and the fields' docs."""

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata, stringify_annotation

from socialtag_jax import config


def _parts(part: type, flag: str) -> Iterator[tuple[type, str]]:
    """A dataclass and, after it, those of its fields; each with what stands before its fields' names in a flag."""
    yield part, flag
    for name, kind in typing.get_type_hints(part).items():
        if dataclasses.is_dataclass(kind):
            yield from _parts(typing.cast("type", kind), f"{flag}{name}.")
        elif typing.get_args(kind)[:1] == (config.Stage,):
            yield config.Stage, f"{flag}{name}.N."


def _facts(field: dataclasses.Field[Any], kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return "set in the file: as many stages as you like."
    written = stringify_annotation(kind, "smart").replace("~", "").removeprefix("typing.")
    if field.default is dataclasses.MISSING:
        return f"`{written}`, required."
    return f"`{written}`, default `{field.default!r}`."


def _markdown(part: type, flag: str) -> Iterator[str]:
    """What it is, and a definition for each field."""
    kinds = typing.get_type_hints(part)
    docs = ModuleAnalyzer.for_module(part.__module__).find_attr_docs()
    yield from (*inspect.cleandoc(part.__doc__ or "").splitlines(), "")
    for field in dataclasses.fields(part):
        if (part.__name__, field.name) not in docs:
            continue  # A part of its own, which says it all.
        yield f"`{f'--{flag}{field.name}'.replace('_', '-')}`"
        yield f": {_facts(field, kinds[field.name])}"
        yield from (f"  {line}" if line else "" for line in docs[part.__name__, field.name])


class ExperimentFields(SphinxDirective):
    """A section for each dataclass of an experiment."""

    def run(self) -> list[nodes.Node]:
        """The sections."""
        sections: list[nodes.Node] = []
        for part, flag in _parts(config.Experiment, ""):
            section = nodes.section(ids=[part.__name__.lower()], names=[part.__name__.lower()])
            section += nodes.title(text=part.__name__)
            self.state.document.note_explicit_target(section)
            self.state.nested_parse(StringList([*_markdown(part, flag)], source=config.__file__), 0, section)
            sections.append(section)
        return sections


def setup(app: Sphinx) -> ExtensionMetadata:
    """Adds the directive."""
    app.add_directive("experiment-fields", ExperimentFields)
    return {"parallel_read_safe": True}
