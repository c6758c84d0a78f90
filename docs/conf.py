"""The site: Sphinx, with pages in MyST Markdown; `make docs` builds it."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The project itself, and command_line.py.
sys.path[:0] = [str(HERE.parent), str(HERE)]

import socialtag_jax  # noqa: E402

project = "socialtag-jax"
author = "the authors of socialtag-jax"
copyright = author  # noqa: A001 -- Sphinx's name
version = release = socialtag_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_argparse_cli", "docstrings", "experiment_fields"]
exclude_patterns = ["pictures"]
nitpicky = True
# Docstrings mark code with single backticks.
default_role = "code"
# Other projects' names: their pages cannot be looked at without a network.
nitpick_ignore_regex = [
    (r"py:.*", r"(PIL|argparse|collections|flax|grain|jax|jaxlib|np|numpy|optax|orbax|tensorflow_datasets)\..*"),
    (r"py:.*", r"(pathlib|typing)\..*|ArrayTree"),
]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"

html_theme = "furo"
html_title = "socialtag-jax"
html_static_path = ["theme"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
highlight_language = "none"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
