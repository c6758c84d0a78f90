"""Content -> one HTML file that needs nothing else: styles, script and pictures are inside."""

import base64
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from socialtag_jax.errors import UserError, printable

REPORT = "report.html"
INSTALL = "pip install 'socialtag-jax[report]'"

MOST_ROWS = 15_000
"""Of a table of tags: about a megabyte."""

_LONGEST = 80
"""Characters that a tag or a path may take."""


def missing_package() -> str | None:
    """A package of the `report` extra that is not installed."""
    return next((name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None), None)


def require_packages() -> None:
    """Checks that reports can be made here.

    Raises:
      UserError: a package of the `report` extra is missing.
    """
    missing = missing_package()
    if missing is not None:
        raise UserError(f"a report needs {missing}, which is not installed", hint=INSTALL)


def shown(text: str) -> str:
    """A tag or a path as a page shows it: no longer than a line or two, nothing that turns the direction of writing."""
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def figure(svg: str, description: str) -> Mapping[str, str]:
    """A drawing, and what it shows, in words, for those who do not see it."""
    from markupsafe import Markup

    # Ours, with no text of a user in it; all else is escaped.
    return {"svg": Markup(svg), "description": description}


def tag_table(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]], *, sort: int, left_out: int
) -> Mapping[str, Any]:
    """A table that can be sorted and searched.

    Args:
      columns: heads, and the kind of value: "text", "count", "ratio", "signed" or "times".
      rows: values; None where there is none. They come sorted by the column `sort`, from high to low.
      sort: index of a column.
      left_out: how many more rows there would be; see `MOST_ROWS`.
    """
    kinds = [{"label": label, "kind": kind} for label, kind in columns]
    return {"columns": kinds, "rows": rows, "sort": sort, "left_out": left_out}


def render(template: str, content: Mapping[str, Any]) -> str:
    """The page; every text in `content` is escaped.

    Args:
      template: a file in `templates/`.
      content: what it shows.
    """
    import jinja2

    here = resources.files("socialtag_jax")
    ours = here / "report" / "templates"
    styles = [here / "web" / "static" / "theme.css", ours / "report.css", ours / "report_parts.css"]
    script = (ours / "tag_table.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("socialtag_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": score, "signed": signed, "share": _share, "words": _words}
    return environment.get_template(template).render(
        content,
        styles=[style.read_text(encoding="utf-8") for style in styles],
        script=script,
        # Even if a tag got past the escaping, no browser would run it: this script alone may run.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _words(label: str) -> str:
    """The terminal's words for a score, as a page says them."""
    label = label.replace("f1", "F1").replace("an image", "a photo").replace("image", "photo")
    return label[:1].upper() + label[1:]


def score(value: float) -> str:
    """A score with three digits; a dash for NaN."""
    return "–" if value != value else f"{value:.3f}"


def signed(value: float) -> str:
    """A difference of scores; a dash for NaN."""
    return "–" if value != value else f"{value:+.3f}".replace("-", "−")


def _share(value: float) -> str:
    """A share as a percentage, with a digit more where it is small."""
    return "–" if value != value else f"{100 * value:.{0 if value >= 0.1 or value == 0 else 1}f} %"
