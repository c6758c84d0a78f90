"""What every reader of weight files hands over: tensors under our names, not yet checked."""

import importlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from socialtag_jax.errors import MissingPackageError, UserError

if TYPE_CHECKING:
    # It imports the model, and so flax, which `keras_file` does without.
    from socialtag_jax.weight_files.input_space import InputSpace

KernelAxes = Literal["HWIO", "OIHW"]
"""A kernel's axes in order: height, width, input features, output features."""


@dataclass(frozen=True)
class WeightFile:
    """The tensors of one weight file.

    Attributes:
      tensors: by `layer/leaf` (`block1_conv1/kernel`); any dtype, kernels with their axes as in the file. Known
        classifiers are left out; what else is no layer of VGG16 is here under its own name, for the check to refuse.
      kernel_axes: the order of every convolution kernel's axes.
      names: what the file calls, or would call, a tensor, where that is not `layer/leaf`.
      inputs: the preprocessing that the first convolution expects; None where it is ours.
      head: the tag head's four tensors by `layer/leaf` under our names, kernels [inputs, outputs]; empty where the
        file has none.
      ignored: layers that are left out, with a shape each, for messages.
      vocabulary_sha256: of the head's tags in order (`TagVocabulary.sha256`); None where the file does not say.
    """

    tensors: Mapping[str, np.ndarray]
    kernel_axes: KernelAxes
    names: Mapping[str, str] = field(default_factory=dict)
    inputs: "InputSpace | None" = None
    head: Mapping[str, np.ndarray] = field(default_factory=dict)
    ignored: Sequence[str] = ()
    vocabulary_sha256: str | None = None


_LARGEST = 2**32
"""Bytes: eight times VGG16 with its classifier."""


def check_unpacked_size(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuses an archive whose members are together larger than any weight file, before one of them is unpacked.

    Raises:
      UserError: so it is.
    """
    total = sum(member.file_size for member in archive.infolist())
    if total > _LARGEST:
        raise UserError(f"would be {total:,} bytes when unpacked, expected at most {_LARGEST:,}", where=path)


def check_tensor_size(name: str, size: int, path: Path) -> None:
    """Refuses a tensor that says it is larger than any of a weight file, before it is read.

    Raises:
      UserError: so it is.
    """
    if size > _LARGEST:
        raise UserError(f"{name} would be {size:,} bytes, expected at most {_LARGEST:,}", where=path)


def require_package(package: str, where: object) -> Any:
    """The module of an optional package.

    Raises:
      MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingPackageError(
            f"reading it needs the package {package}, which is not installed",
            where=where,
            hint="pip install 'socialtag-jax[weights]'",
        ) from None
