"""What the project shows in a browser: the local pages' hosting, and in `static/` their HTML, CSS and JavaScript."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from socialtag_jax.errors import UserError

STATIC = Path(__file__).parent / "static"
"""The folder of the pages' files."""


@contextlib.contextmanager
def of_serve_extra() -> Iterator[None]:
    """Around imports of what hosts pages, which an extra installs.

    Raises:
      UserError: one is missing.
    """
    try:
        yield
    except ImportError as missing:
        what = f"the packages that host pages are missing ({missing.name})"
        raise UserError(what, hint="install them: pip install 'socialtag-jax[serve]'") from None
