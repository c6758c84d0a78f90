"""What every reader of weight files hands over: tensors under our names, not yet checked."""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from socialtag_jax.errors import UserError
from socialtag_jax.model import HEAD_LAYERS
from socialtag_jax.weight_files.input_space import InputSpace

KernelAxes = Literal["HWIO", "OIHW"]
"""A kernel's axes in order: height, width, input features, output features."""

_HEAD = re.compile(rf"(fc1|fc2|predictions|dense(_\d+)?|{'|'.join(HEAD_LAYERS)})")


@dataclass(frozen=True)
class WeightFile:
    """The tensors of one weight file.

    Attributes:
      tensors: by `layer/leaf` (`block1_conv1/kernel`); any dtype, kernels with their axes as in the file. Known
        classifiers are left out; what else is no layer of VGG16 is here under its own name, for the check to refuse.
      kernel_axes: the order of every kernel's axes.
      names: what the file calls, or would call, a tensor, where that is not `layer/leaf`.
      inputs: the preprocessing that the first convolution expects; None where it is ours.
    """

    tensors: Mapping[str, np.ndarray]
    kernel_axes: KernelAxes
    names: Mapping[str, str] = field(default_factory=dict)
    inputs: InputSpace | None = None


def is_head(layer: str) -> bool:
    """Whether a Keras layer's name is a classifier's: VGG16's, ours, or what Keras calls any dense layer by default."""
    return _HEAD.fullmatch(layer) is not None


def require_package(package: str, where: object) -> Any:
    """The module of an optional package.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"reading it needs the package {package}, which is not installed",
            where=where,
            hint="pip install 'socialtag-jax[weights]'",
        ) from None
