"""The network once more, in nothing but `jax.lax`: what every exported format is held against.

It shares no code with the model that trains, with the exporters or with the runtimes, so that no fault can be in both
places. It computes in float32 at full precision, each convolution by XLA as one sum of products.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015, table 1,
column D; preprocessing as in `keras.applications.vgg16` ("caffe").
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

_CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Of each block; a pooling follows."""
_MEAN_BGR = (103.939, 116.779, 123.68)


def probabilities(params: Mapping[str, Mapping[str, jax.Array]], images: jax.Array) -> jax.Array:
    """The tags' probabilities, from what `params.safetensors` holds.

    Args:
      params: layer name -> {"kernel", "bias"}, float32; kernels H, W, I, O and [inputs, outputs].
      images: uint8 [batch, height, width, 3], RGB.

    Returns:
      float32 [batch, n_tags], 0 to 1.
    """
    mean = jnp.array(_MEAN_BGR, jnp.float32).reshape(1, 1, 1, 3)
    x = images[..., ::-1].astype(jnp.float32) - mean
    for block, count in enumerate(_CONVOLUTIONS, start=1):
        for index in range(1, count + 1):
            x = jax.nn.relu(_convolution(x, params[f"block{block}_conv{index}"]))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jax.nn.relu(_dense(x.mean((1, 2)), params["tags_hidden"]))
    return jax.nn.sigmoid(_dense(x, params["tags_logits"]))


def _convolution(x: jax.Array, leaves: Mapping[str, jax.Array]) -> jax.Array:
    product = jax.lax.conv_general_dilated(
        x,
        leaves["kernel"],
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return product + leaves["bias"].reshape(1, 1, 1, -1)


def _dense(x: jax.Array, leaves: Mapping[str, jax.Array]) -> jax.Array:
    return jnp.matmul(x, leaves["kernel"], precision=jax.lax.Precision.HIGHEST) + leaves["bias"].reshape(1, -1)
