"""What the project shows in a browser: the local pages' hosting, and in `static/` their HTML, CSS and JavaScript."""

from pathlib import Path

STATIC = Path(__file__).parent / "static"
"""The folder of the pages' files."""
