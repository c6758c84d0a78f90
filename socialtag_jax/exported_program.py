"""A bundle's program: read, and refused where it would do more than compute probabilities from pixels.

XLA runs what a program's custom calls name, functions of this process among them. Ours need none.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax import export

from socialtag_jax import files
from socialtag_jax.errors import UserError, first_line

_REACHES_OUT = re.compile(r"\b(?:custom_call|infeed|outfeed|send|recv)\b")
"""Operations that call functions of this process, or talk to it or to other ones, in a module's text."""

_SHAPE_CHECK = re.compile(r"stablehlo\.custom_call @shape_assertion\(")
"""The one custom call that remains: XLA's compiler evaluates it, and nothing is called when the program runs."""


def load_program(
    path: Path, params: Mapping[str, Mapping[str, np.ndarray]], *, input_size: int, n_tags: int, hint: str
) -> export.Exported:
    """Reads an exported function, (params, uint8 [b, input_size, input_size, 3]) -> float32 [b, n_tags].

    Args:
      path: the file that `jax.export` wrote.
      params: that it will be called with.
      input_size: height and width of its images.
      n_tags: its outputs.
      hint: what to do where it is wrong.

    Raises:
      UserError: it is damaged, is another function, or has operations that reach out of it.
    """
    try:
        exported = export.deserialize(bytearray(files.read_bytes(path)))
        text = exported.mlir_module()
    except Exception as error:  # on other bytes, flatbuffers and MLIR raise nearly anything
        what = f"cannot be read as an exported program by JAX {jax.__version__}: {first_line(error)}"
        raise UserError(what, where=path, hint=f"{hint}, or install the JAX that wrote it, or a later one") from error
    found = _REACHES_OUT.search(_SHAPE_CHECK.sub("", text))
    if found is not None or exported.ordered_effects or exported.unordered_effects:
        what = "has side effects" if found is None else f"holds the operation {found[0]!r}"
        raise UserError(
            f"the program {what}: it could do more than compute, so it is refused",
            where=path,
            hint="export the model again from its run; do not use a bundle from somebody whom you do not trust",
        )
    _check_signature(exported, params, path, input_size=input_size, n_tags=n_tags, hint=hint)
    return exported


def _check_signature(
    exported: export.Exported,
    params: Mapping[str, Mapping[str, np.ndarray]],
    path: Path,
    *,
    input_size: int,
    n_tags: int,
    hint: str,
) -> None:
    images = jax.ShapeDtypeStruct((None, input_size, input_size, 3), np.dtype(np.uint8))  # pyright: ignore[reportArgumentType]
    wanted, structure = jax.tree.flatten(((params, images), {}))
    if exported.in_tree != structure or len(exported.out_avals) != 1 or exported.nr_devices != 1:
        raise UserError(
            "the program takes other arguments than these weights and one batch of images", where=path, hint=hint
        )
    paths = [jax.tree_util.keystr(where) for where, _ in jax.tree_util.tree_leaves_with_path(((params, images), {}))]
    pairs = [*zip(paths, exported.in_avals, wanted, strict=True)]
    output = jax.ShapeDtypeStruct((None, n_tags), np.dtype(np.float32))  # pyright: ignore[reportArgumentType]
    for name, aval, other in (*pairs, ("the output", exported.out_avals[0], output)):
        # The batch's size is a symbol.
        shape = tuple(size if isinstance(size, int) else None for size in aval.shape)
        if shape != tuple(other.shape) or aval.dtype != other.dtype:
            raise UserError(
                f"the program does not fit the weights and tags: {name} is {aval.dtype} {list(aval.shape)}, expected "
                f"{other.dtype} {['b' if size is None else size for size in other.shape]}",
                where=path,
                hint=hint,
            )
