"""Sorting a file's layers: VGG16's convolutions, the tag head, known classifiers, and what does not belong."""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from socialtag_jax.model import CONVOLUTIONS, HEAD_LAYERS, VGG16_LAYERS
from socialtag_jax.weight_files.contents import WeightFile

POOLED_FEATURES = VGG16_LAYERS[-1].features
"""What the head sees of an image: VGG16's last 512 features, averaged over all positions."""

_CLASSIFIER = re.compile(rf"(fc1|fc2|predictions|dense(_\d+)?|{'|'.join(HEAD_LAYERS)})")
"""VGG16's names, Keras's default for any dense layer, and ours."""


@dataclass(frozen=True, eq=False)
class ForeignLayer:
    """A layer with variables, as a file has it.

    Attributes:
      name: the file's.
      leaves: "kernel", "bias", … -> an array, or what has a shape and can be read as one.
      around: it is part of a model that has VGG16 as a model inside.
    """

    name: str
    leaves: Mapping[str, Any]
    around: bool = False

    def __str__(self) -> str:
        """Its name and its largest variable's shape: `fc1 (25088, 4096)`."""
        return f"{self.name} {max((tuple(leaf.shape) for leaf in self.leaves.values()), key=math.prod)}"


def from_layers(layers: Sequence[ForeignLayer], read: Callable[[Any], np.ndarray]) -> WeightFile:
    """The contents of a file whose layers have names and layouts as in Keras.

    Layers that are no part of VGG16 nor the head are left out where they surround VGG16, or are called like a
    classifier's; else they go in, for the check to refuse.

    Args:
      layers: all that have variables, in the file's order.
      read: a leaf -> its values; not called for what is left out, which may be large.
    """
    others = [layer for layer in layers if layer.name not in CONVOLUTIONS]
    head = find_head(others)
    chosen = list(head.values())
    ignored = [layer for layer in others if layer not in chosen and (layer.around or _CLASSIFIER.fullmatch(layer.name))]
    kept = [(layer.name, layer) for layer in layers if layer not in chosen and layer not in ignored]

    def tensors(named: Sequence[tuple[str, ForeignLayer]]) -> dict[str, np.ndarray]:
        return {f"{name}/{leaf}": read(item) for name, layer in named for leaf, item in layer.leaves.items()}

    return WeightFile(
        tensors(kept),
        kernel_axes="HWIO",
        names={f"{ours}/{leaf}": f"{layer.name}/{leaf}" for ours, layer in head.items() for leaf in layer.leaves},
        head=tensors(list(head.items())),
        ignored=[str(layer) for layer in ignored],
    )


def find_head(layers: Sequence[ForeignLayer]) -> dict[str, ForeignLayer]:
    """The tag head: two dense layers, 512 averaged features -> hidden units -> tags, and nothing besides.

    Shapes alone tell: programs call the two what they like. VGG16's own classifier is no such head, nor are most
    others: they have more layers, or flatten the image first (`fc1` is 25088 x 4096).

    Args:
      layers: all that have variables, without VGG16's convolutions; where either could be the first (all sizes are
        512), the order counts.

    Returns:
      `tags_hidden` and `tags_logits` -> the file's layer; empty where it has no such head.
    """
    if len(layers) != len(HEAD_LAYERS):
        return {}
    for hidden, logits in itertools.permutations(layers):
        first, second = _dense_sizes(hidden), _dense_sizes(logits)
        if first and second and first[0] == POOLED_FEATURES and first[1] == second[0]:
            return dict(zip(HEAD_LAYERS, (hidden, logits), strict=True))
    return {}


def _dense_sizes(layer: ForeignLayer) -> tuple[int, int] | None:
    """(inputs, outputs) of a dense layer with a bias; None for any other."""
    if set(layer.leaves) != {"kernel", "bias"}:
        return None
    kernel, bias = tuple(layer.leaves["kernel"].shape), tuple(layer.leaves["bias"].shape)
    return kernel if len(kernel) == 2 and bias == kernel[1:] else None
