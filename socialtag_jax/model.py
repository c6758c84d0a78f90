"""VGG16's convolutional part with a sigmoid tag head, as a Flax Linen module.

Parameters are a plain nested dict whose keys are Keras layer names (`params["block5_conv3"]["kernel"]`), so that weight
conversion, freezing, checkpoints and exports share one naming.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015, table 1,
column D; layer names and preprocessing as in `keras.applications.vgg16`.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from socialtag_jax.config import is_zero
from socialtag_jax.convolution import convolution

Params = dict[str, dict[str, jax.Array]]
"""Layer name -> {"kernel", "bias"}, float32."""

MEAN_RGB = (123.68, 116.779, 103.939)
"""ImageNet's mean colour, as `keras.applications.vgg16.preprocess_input` subtracts it."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of VGG16's convolutional part, as Keras counts them."""

    name: str
    kind: Literal["input", "convolution", "pool"]
    features_in: int
    features: int

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """(height, width, input features, output features) of a convolution's kernel."""
        return (3, 3, self.features_in, self.features)


def _vgg16_layers() -> tuple[Layer, ...]:
    layers = [Layer("input", "input", 3, 3)]
    features_in = 3
    for block, (features, repeats) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], start=1):
        for index in range(1, repeats + 1):
            layers.append(Layer(f"block{block}_conv{index}", "convolution", features_in, features))
            features_in = features
        layers.append(Layer(f"block{block}_pool", "pool", features, features))
    return tuple(layers)


VGG16_LAYERS = _vgg16_layers()
"""The 19 layers in order: index 0 is the input, index 15 `block5_conv1`, index 18 `block5_pool`."""

CONVOLUTIONS: dict[str, Layer] = {layer.name: layer for layer in VGG16_LAYERS if layer.kind == "convolution"}
"""The 13 convolutions by name, in order; 14,714,688 parameters."""

HEAD_LAYERS = ("tags_hidden", "tags_logits")
"""The head's two dense layers; never frozen."""


def trainable_layers(freeze_layers: int) -> frozenset[str]:
    """Names of the layers with parameters that train when VGG16's first `freeze_layers` of 19 layers are frozen."""
    if not 0 <= freeze_layers <= len(VGG16_LAYERS):
        raise ValueError(f"freeze_layers is {freeze_layers}, expected 0 to {len(VGG16_LAYERS)}")
    unfrozen = {layer.name for layer in VGG16_LAYERS[freeze_layers:] if layer.kind == "convolution"}
    return frozenset(unfrozen) | frozenset(HEAD_LAYERS)


def preprocess(images: jax.Array) -> jax.Array:
    """RGB 0..255 (uint8 or float [batch, height, width, 3]) -> float32 BGR less ImageNet's mean (Keras: "caffe")."""
    mean = jnp.array(MEAN_RGB[::-1], jnp.float32).reshape(1, 1, 1, 3)
    return images[..., ::-1].astype(jnp.float32) - mean


class TagPredictor(nn.Module):
    """VGG16 without its top -> average over positions -> Dense, relu -> dropout -> Dense.

    Attributes:
      n_tags: number of outputs.
      hidden_units: width of the hidden layer.
      dropout_rate: share of hidden activations dropped in training.
      compute_dtype: of the convolutions; parameters, pooling and head are float32.
    """

    n_tags: int
    hidden_units: int = 512
    dropout_rate: float = 0.5
    compute_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        *,
        first_layer: int = 0,
        freeze_layers: int = 0,
        dropout_keys: jax.Array | None = None,
        features_only: bool = False,
    ) -> jax.Array:
        """Tag logits, or the features that a frozen part of the network hands on.

        Args:
          inputs: uint8 [batch, height, width, 3], RGB; with `first_layer`, the features that this layer takes.
          first_layer: how many of the 19 layers are left out, as `inputs` are their features already.
          freeze_layers: no gradient flows into the first so many of the 19 layers: their backward pass is never built.
          dropout_keys: one random key a row, so that what is dropped depends neither on the batch's split over devices
            nor on its other rows; None for no dropout.
          features_only: ends behind the first `freeze_layers` layers, and behind the average that follows all 19.

        Returns:
          float32 [batch, n_tags]; with `features_only`, [batch, height, width, features] in the compute dtype, or
          float32 [batch, 512] of all 19 layers.
        """
        x = inputs if first_layer else preprocess(inputs)
        if first_layer < len(VGG16_LAYERS):
            x = self._convolutions(x.astype(self.compute_dtype), first_layer, freeze_layers, features_only)
        else:
            x = x.astype(jnp.float32)
        if features_only:
            return x
        x = nn.relu(nn.Dense(self.hidden_units, dot_general=_product, name=HEAD_LAYERS[0])(x))
        if dropout_keys is not None and not is_zero(self.dropout_rate):
            x = dropout(x, dropout_keys, self.dropout_rate)
        return nn.Dense(self.n_tags, dot_general=_product, name=HEAD_LAYERS[1])(x)

    def _convolutions(self, x: jax.Array, first_layer: int, freeze_layers: int, features_only: bool) -> jax.Array:
        for index, layer in enumerate(VGG16_LAYERS[first_layer:], start=first_layer):
            if features_only and index == freeze_layers:
                return x
            if layer.kind == "convolution":
                convolve = nn.Conv(
                    layer.features,
                    (3, 3),
                    dtype=self.compute_dtype,
                    conv_general_dilated=_convolution,
                    name=layer.name,
                )
                x = nn.relu(convolve(x))
            elif layer.kind == "pool":
                x = max_pool(x)
            if index == freeze_layers - 1:
                x = jax.lax.stop_gradient(x)
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


def _convolution(images: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated` as `nn.Conv` calls it here."""
    return convolution(images, kernel)


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 2 x 2 positions: [batch, height, width, features] -> [batch, height/2, width/2, features].

    An odd last row or column is left out, as in Keras. Equal maxima share the gradient. On CPUs, this is three times as
    fast as `nn.max_pool`.
    """
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    # Not by x[:, ::2]: with a symbolic batch, as in exports, that is a gather.
    rows = jnp.maximum(*(jax.lax.slice_in_dim(x, start, height, 2, axis=1) for start in (0, 1)))
    return jnp.maximum(*(jax.lax.slice_in_dim(rows, start, width, 2, axis=2) for start in (0, 1)))


@jax.custom_vjp
def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _matmul_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _matmul_backward(inputs: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = inputs
    return gradient @ kernel.T, x.T @ gradient


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _product(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """`jax.lax.dot_general` of float32 [batch, in] and [in, out], as `nn.Dense` calls it.

    JAX's own backward pass computes the kernel's gradient transposed. On CPU, XLA turns it around once for every use
    that the optimizer makes of it, which takes longer than all else that a head's step does.
    """
    return _matmul(x, kernel)


def dropout(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """Inverted dropout with one random key a row (Srivastava et al., 2014): float32 [batch, features]."""
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1.0 - rate), 0.0)


def init_params(model: TagPredictor, key: jax.Array, input_size: int) -> Params:
    """Fresh parameters: LeCun-normal kernels, zero biases."""
    variables = jax.jit(model.init)(key, jnp.zeros((1, input_size, input_size, 3), jnp.uint8))
    return cast(Params, variables["params"])


def tag_logits(
    model: TagPredictor,
    params: Params,
    inputs: jax.Array,
    *,
    first_layer: int = 0,
    freeze_layers: int = 0,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """`TagPredictor.__call__` with these parameters: float32 [batch, n_tags]."""
    outputs = model.apply(
        {"params": params}, inputs, first_layer=first_layer, freeze_layers=freeze_layers, dropout_keys=dropout_keys
    )
    return cast(jax.Array, outputs)


def frozen_features(model: TagPredictor, params: Params, images: jax.Array, freeze_layers: int) -> jax.Array:
    """What the first `freeze_layers` of the 19 layers make of images: the `inputs` of a model without these layers.

    Args:
      model: whose compute dtype the layers compute in.
      params: at least those of the frozen layers.
      images: uint8 [batch, height, width, 3], RGB.
      freeze_layers: 1 to 19.

    Returns:
      [batch, height, width, features] in the compute dtype, or float32 [batch, 512]: the average over positions, which
      follows all 19 layers.
    """
    return cast(jax.Array, model.apply({"params": params}, images, freeze_layers=freeze_layers, features_only=True))


def param_shapes(model: TagPredictor, input_size: int) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """The parameters' shapes and dtypes, without computing any."""
    shapes: Any = jax.eval_shape(lambda: init_params(model, jax.random.key(0), input_size))
    return shapes
