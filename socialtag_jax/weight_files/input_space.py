"""Moving a difference in preprocessing into the first convolution.

Our network, as Keras's, sees BGR in 0..255 less ImageNet's mean colour. PyTorch's sees RGB, scaled per channel:
`(rgb - mean) / std`. Both are affine in the photo, and so is a convolution: the kernel takes the order of channels and
the scale, the bias takes what is left between the two means.

At the photo's edge the two differ by a trifle that no weights can remove: zero padding stands for the mean colour, and
the means differ by (0.005, 0.499, 0.409) grey levels. There, an output is off by no more than the sum of
`|kernel| * |difference of means|` over the taps that fall on padding; inside, it is equal but for rounding.
"""

from dataclasses import dataclass

import numpy as np

from socialtag_jax.model import MEAN_RGB


@dataclass(frozen=True, slots=True)
class InputSpace:
    """A network that expects RGB as `(rgb - mean) / std`, each a triple in grey levels of 0..255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def mean_difference(self) -> np.ndarray:
        """Our mean colour less this one: float64 [3], RGB."""
        return np.subtract(MEAN_RGB, self.mean)


TORCHVISION = InputSpace(
    mean=(255 * 0.485, 255 * 0.456, 255 * 0.406),
    std=(255 * 0.229, 255 * 0.224, 255 * 0.225),
)
"""`torchvision.models.VGG16_Weights.IMAGENET1K_V1`, and timm's `vgg16.tv_in1k`, which is the same."""

TORCHVISION_FEATURES = InputSpace(
    mean=(255 * 0.48235, 255 * 0.45882, 255 * 0.40784),
    std=(1.0, 1.0, 1.0),
)
"""`VGG16_Weights.IMAGENET1K_FEATURES`: the Visual Geometry Group's own weights, with their own input scale."""


def fold(kernel: np.ndarray, bias: np.ndarray, inputs: InputSpace) -> tuple[np.ndarray, np.ndarray]:
    """The first convolution for our preprocessing that does what `kernel` and `bias` do after `inputs`.

    Args:
      kernel: float [3, 3, 3, out], H, W, I (RGB), O.
      bias: float [out].
      inputs: what they were trained on.

    Returns:
      float64 kernel [3, 3, 3, out] over BGR, and bias [out].
    """
    scaled = kernel.astype(np.float64) / np.array(inputs.std).reshape(1, 1, 3, 1)
    offset = np.einsum("hwio,i->o", scaled, inputs.mean_difference)
    return scaled[:, :, ::-1], bias.astype(np.float64) + offset
