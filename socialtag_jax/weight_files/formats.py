"""Any weight file -> its tensors: finds out by content what it is, refuses pickles, calls the reader.

A file's name decides only where its content cannot: ONNX has no signature.
"""

import dataclasses
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open

from socialtag_jax.errors import UserError
from socialtag_jax.tags import VOCABULARY_KEY
from socialtag_jax.weight_files.contents import WeightFile, check_unpacked_size
from socialtag_jax.weight_files.keras_hdf5 import read_hdf5, read_keras_zip
from socialtag_jax.weight_files.layers import ForeignLayer, from_layers
from socialtag_jax.weight_files.onnx_graph import read_onnx
from socialtag_jax.weight_files.torch_names import read_torch, uses_torch_names

SUPPORTED = ".h5, .weights.h5, .keras, .safetensors, .onnx, .npz"

_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
_PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_HDF5_START = b"\x89HDF\r\n\x1a\n"
_ZIP_START = b"PK\x03\x04"
_NPY_START = b"\x93NUMPY"


def read(path: Path) -> WeightFile:
    """Reads a weight file of any supported format.

    Raises:
      UserError: no such file, a pickle, an unknown format, a damaged file, or a missing package.
    """
    try:
        kind, reader = _reader(path)
    except FileNotFoundError:
        raise UserError("no such file", where=path, hint="check how it is spelt") from None
    except IsADirectoryError:
        raise UserError("is a folder, not a weight file", where=path) from None
    except PermissionError:
        raise UserError("no permission to read the file", where=path) from None
    try:
        return reader(path)
    except UserError:
        raise
    except Exception as error:  # of a dozen kinds, from five libraries, that no list of ours would keep up with
        raise UserError(
            f"cannot be read as {kind}, it may be damaged or cut short: {error}", where=path, hint="get the file again"
        ) from error


def _reader(path: Path) -> tuple[str, Callable[[Path], WeightFile]]:
    """What a file is, in words, and the function that reads it."""
    with path.open("rb") as file:
        start = file.read(128)
    if start.startswith(_HDF5_START):
        return "HDF5", read_hdf5
    if start.startswith(_ZIP_START):
        return "a .keras or .npz archive", _read_zip
    if _is_safetensors(start, path.stat().st_size):
        return "safetensors", _read_safetensors
    if start.startswith(_NPY_START) and b"|O" not in start:
        raise UserError("is a single NumPy array", where=path, hint="save an .npz with keys like block1_conv1/kernel")
    if start.startswith((*_PICKLE_STARTS, _NPY_START)):
        raise _pickle(path, "is a pickle")
    suffix = path.suffix.lower()
    if suffix in _PICKLE_SUFFIXES:
        raise _pickle(path, f"is a pickle, going by its suffix {suffix}")
    if suffix == ".onnx":
        return "ONNX", read_onnx
    raise UserError(
        f"is no weight file of a known format: it starts with {start[:8]!r}", where=path, hint=f"supported: {SUPPORTED}"
    )


def _pickle(path: Path, what: str) -> UserError:
    return UserError(
        f"{what}: unpickling runs code that the file brings along, so it is refused",
        where=path,
        hint="convert it once, where you trust it, in Python: "
        f"state = torch.load({path.name!r}, map_location='cpu', weights_only=True); "
        f"safetensors.torch.save_file(state, {path.with_suffix('.safetensors').name!r})",
    )


def _is_safetensors(start: bytes, size: int) -> bool:
    """The header's length in 8 bytes, then the header, which is JSON."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def _read_zip(path: Path) -> WeightFile:
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        check_unpacked_size(archive, path)
    if any(member.rpartition("/")[2] == "data.pkl" for member in members):
        raise _pickle(path, "is a PyTorch checkpoint, a pickle inside a zip archive")
    if "model.weights.h5" in members:
        return read_keras_zip(path)
    if members and all(member.endswith(".npy") for member in members):
        return _read_npz(path)
    raise UserError(
        f"is a zip archive with no model.weights.h5 and no .npy arrays; it holds {', '.join(members[:5]) or 'nothing'}",
        where=path,
        hint=f"supported: {SUPPORTED}",
    )


def _read_npz(path: Path) -> WeightFile:
    with np.load(path, allow_pickle=False) as arrays:
        try:
            return _by_layer({name: arrays[name] for name in arrays.files})
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise _pickle(path, "holds an array of Python objects, which is a pickle") from error


def _read_safetensors(path: Path) -> WeightFile:
    """Our own canonical file (`block1_conv1/kernel`), or torchvision's and timm's names."""
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        if uses_torch_names(names):
            return read_torch(names, file.get_tensor, path)
        contents = _by_layer({name: file.get_tensor(name) for name in names})
        return dataclasses.replace(contents, vocabulary_sha256=(file.metadata() or {}).get(VOCABULARY_KEY))


def _by_layer(arrays: Mapping[str, np.ndarray]) -> WeightFile:
    """From keys as in our canonical file: `layer/leaf`."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        layer, _, leaf = key.rpartition("/")
        layers.setdefault(layer, {})[leaf] = array
    return from_layers([ForeignLayer(name, leaves) for name, leaves in layers.items()], read=np.asarray)
