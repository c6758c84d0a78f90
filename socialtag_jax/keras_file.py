"""A bundle's `model.keras`: checked, and opened in Keras 3, which is imported only here.

Keras has had ways to run code from a file's configuration, its safe mode notwithstanding; so a configuration may name
only the classes that ours name.
"""

import importlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from socialtag_jax.errors import MissingPackageError, UserError, excerpt, first_line
from socialtag_jax.weight_files.contents import check_unpacked_size

_CONFIGURATION = "config.json"
_LARGEST_CONFIGURATION = 2**20
"""Bytes; ours has 20 kB."""

_CLASSES = frozenset(
    {
        ("keras.src.models.functional", "Functional"),
        ("keras", "DTypePolicy"),
        ("keras.initializers", "Zeros"),
        (None, "__keras_tensor__"),
        *(
            ("keras.layers", name)
            for name in (
                "Conv2D",
                "Dense",
                "Dropout",
                "GlobalAveragePooling2D",
                "InputLayer",
                "MaxPooling2D",
            )
        ),
    }
)
"""(module, class) of all that `export_keras` makes."""

_HINT = "export the run again with `socialtag export --formats keras`"


def import_keras() -> Any:
    """Keras, on its JAX backend unless the environment or an earlier import has chosen another.

    Raises:
      MissingPackageError: it is not installed, or its backend is not.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        return importlib.import_module("keras")
    except (ImportError, ValueError) as error:
        if isinstance(error, ImportError) and error.name == "keras":
            raise MissingPackageError(
                "a .keras file needs the package keras, which is not installed",
                hint="pip install 'socialtag-jax[keras]'",
            ) from None
        raise MissingPackageError(
            f"Keras cannot be imported with KERAS_BACKEND={os.environ.get('KERAS_BACKEND')}: {error}",
            hint="KERAS_BACKEND=jax needs no other package",
        ) from error


def open_model(path: Path, n_tags: int, input_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Opens a model as `keras.saving.load_model` does, in safe mode.

    Args:
      path: the file.
      n_tags: its outputs.
      input_size: height and width of its images.

    Returns:
      uint8 [n, input_size, input_size, 3], RGB -> float32 [n, n_tags].

    Raises:
      MissingPackageError: as `import_keras`.
      UserError: the file is damaged, has other inputs or outputs, or could do more than compute.
    """
    keras = import_keras()
    _check_configuration(path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras, zipfile and h5py raise nearly anything
        raise UserError(f"Keras cannot load it: {first_line(error)}", where=path, hint=_HINT) from error
    shapes = model.input_shape, model.output_shape
    if shapes != ((None, input_size, input_size, 3), (None, n_tags)):
        raise UserError(f"has input and output of shapes {shapes}, not the bundle's", where=path, hint=_HINT)

    def score(pixels: np.ndarray) -> np.ndarray:
        # Keras on JAX would multiply in TensorFloat-32 on GPUs that have it: then it is not the file that differs.
        with jax.default_matmul_precision("highest"):
            return np.asarray(model.predict_on_batch(pixels))

    return score


def _check_configuration(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            check_unpacked_size(archive, path)
            if archive.getinfo(_CONFIGURATION).file_size > _LARGEST_CONFIGURATION:
                raise UserError(f"{_CONFIGURATION} has over {_LARGEST_CONFIGURATION:,} bytes", where=path, hint=_HINT)
            named = list(_named(json.loads(archive.read(_CONFIGURATION))))
    except UserError:
        raise
    except Exception as error:  # on damaged archives zipfile raises several errors
        raise UserError(f"cannot be read as a Keras model: {first_line(error)}", where=path, hint=_HINT) from error
    for pair in named:
        if pair not in _CLASSES:
            what = ".".join(str(part) for part in pair if part is not None)
            raise UserError(
                f"the model holds {excerpt(what)}: it could do more than compute, so it is refused",
                where=path,
                hint="export the model again from its run; do not use a bundle from somebody whom you do not trust",
            )


def _named(value: Any) -> Iterator[tuple[object, object]]:
    """(module, class) of whatever a configuration has Keras look up, at any depth."""
    if isinstance(value, dict):
        if {"module", "class_name"} & value.keys():
            pair = value.get("module"), value.get("class_name")
            yield pair if all(part is None or isinstance(part, str) for part in pair) else ("", repr(pair))
            # What a program has registered with Keras goes by this name, and comes first.
            if value.get("registered_name") not in (None, pair[1]):
                yield None, str(value["registered_name"])
        for one in value.values():
            yield from _named(one)
    elif isinstance(value, list):
        for one in value:
            yield from _named(one)
