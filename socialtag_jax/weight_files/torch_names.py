"""VGG16 as torchvision and timm name its tensors: `features.0.weight`, axes O, I, H, W, RGB input."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from socialtag_jax.errors import UserError
from socialtag_jax.model import CONVOLUTIONS
from socialtag_jax.weight_files.contents import WeightFile
from socialtag_jax.weight_files.input_space import TORCHVISION, TORCHVISION_FEATURES, InputSpace

_INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Of the 13 convolutions in `torchvision.models.vgg16().features`, whose other members are ReLUs and pools."""

_NAMES = {
    f"{layer}/{leaf}": f"features.{index}.{torch_leaf}"
    for layer, index in zip(CONVOLUTIONS, _INDICES, strict=True)
    for leaf, torch_leaf in (("kernel", "weight"), ("bias", "bias"))
}
_HEADS = ("classifier.", "pre_logits.", "head.")
_LAST_BIASES = ("classifier.6.bias", "head.fc.bias")


def uses_torch_names(names: Iterable[str]) -> bool:
    """Whether these tensors come from torchvision's or timm's VGG."""
    return any(name.startswith("features.") for name in names)


def read_torch(names: Iterable[str], load: Callable[[str], np.ndarray], path: Path) -> WeightFile:
    """Maps torchvision's names to ours.

    Args:
      names: of all tensors in the file.
      load: reads one of them; classifiers, which are large, are left unread.
      path: for error messages.

    Raises:
      UserError: a variant with batch normalisation.
    """
    names = list(names)
    normalised = [name for name in names if name.endswith(".running_mean")]
    if normalised:
        layer = normalised[0].removesuffix(".running_mean")
        raise UserError(
            f"layer {layer} is a batch normalisation: this is vgg16_bn, a network other than VGG16",
            where=path,
            hint="use the weights of plain vgg16",
        )
    ours = {theirs: key for key, theirs in _NAMES.items()}
    tensors = {ours.get(name, name): load(name) for name in names if not name.startswith(_HEADS)}
    ignored = [name for name in names if name.startswith(_HEADS)]
    return WeightFile(tensors, kernel_axes="OIHW", names=_NAMES, inputs=_input_space(names, load), ignored=ignored)


def _input_space(names: list[str], load: Callable[[str], np.ndarray]) -> InputSpace:
    """What the first convolution was trained on: torchvision's usual normalisation, unless the classifier is blank.

    Torchvision publishes the original authors' convolutions too, under the same names but for another input scale; it
    fills the classifier that it has no values for with NaN. Nothing else in the file tells the two apart.
    """
    biases = [load(name) for name in names if name in _LAST_BIASES]
    blank = any(np.isnan(bias.astype(np.float32)).any() for bias in biases)
    return TORCHVISION_FEATURES if blank else TORCHVISION
