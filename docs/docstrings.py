"""A Sphinx extension that reads docstrings as this project writes them, and finds the names in them.

Google style, by Sphinx's own reader of it; but a colon in what is returned, or in a field's text, ends no type there.

`sphinx -n` warns of a name that it cannot link to. A name of this project that has no entry on the site is still right
where Python finds it; one that nobody finds is still warned about.
"""

import importlib
from typing import Any, cast

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import ExtensionMetadata

# What Sphinx itself passes is its whole configuration, of which this is the part that is read.
_STYLE = cast("Any", Config(napoleon_use_ivar=True, napoleon_use_rtype=False))


def read(app: Sphinx, what: Any, name: str, thing: object, options: Any, lines: list[str]) -> None:
    """Google style -> reStructuredText, in place; fields' and properties' texts have no sections."""
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(list(lines), _STYLE, app, what, name, thing, options).lines()


def _exists(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if not module.startswith("socialtag_jax"):
        return False
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return False


def find(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> nodes.Node | None:
    """A link to the only entry that a short name can mean; the name alone where Python knows it; else None."""
    if node.get("refdomain") != "py":
        return None
    target = cast("str", node["reftarget"])
    objects = cast("PythonDomain", env.get_domain("py")).objects
    found = [name for name in objects if name.endswith(f".{target}")] if "." not in target else []
    if len(found) == 1:
        entry = objects[found[0]]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, found[0])
    here = f"{node.get('py:module') or 'socialtag_jax'}.{target}"
    return content if _exists(target) or _exists(here) else None


def setup(app: Sphinx) -> ExtensionMetadata:
    """Listens for docstrings, and for names that Sphinx does not know."""
    app.connect("autodoc-process-docstring", read)
    app.connect("missing-reference", find)
    return {"parallel_read_safe": True}
