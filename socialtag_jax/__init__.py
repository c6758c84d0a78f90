"""Train a photo-tag predictor on your own tagged photos, and use it.

Public names are imported when they are first used, so that the exported tagger never loads what only training needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from socialtag_jax.config import Experiment as Experiment
    from socialtag_jax.config import Stage as Stage
    from socialtag_jax.errors import UserError as UserError
    from socialtag_jax.shards.dataset import Dataset as Dataset
    from socialtag_jax.shards.dataset import open_dataset as open_dataset
    from socialtag_jax.tagger import SuggestedTag as SuggestedTag
    from socialtag_jax.tagger import Tagger as Tagger
    from socialtag_jax.tags import TagVocabulary as TagVocabulary

_HOMES = {
    "Dataset": "shards.dataset",
    "Experiment": "config",
    "Stage": "config",
    "SuggestedTag": "tagger",
    "TagVocabulary": "tags",
    "Tagger": "tagger",
    "UserError": "errors",
    "open_dataset": "shards.dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
