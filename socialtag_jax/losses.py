"""The weighted multi-label loss, the targets that it compares with, and penalties on weights. Pure functions."""

import jax
import jax.numpy as jnp

from socialtag_jax.model import Params


def multi_hot(tag_ids: jax.Array, n_tags: int) -> jax.Array:
    """Targets from padded tag indices.

    Args:
      tag_ids: int32 [batch, most tags of an image], padded with -1.
      n_tags: size of the vocabulary.

    Returns:
      float32 [batch, n_tags], 1 where the image has the tag.
    """
    batch, _ = tag_ids.shape
    # JAX counts negative indices from the end: the padding is moved past the end, where `drop` drops it.
    columns = jnp.where(tag_ids < 0, n_tags, tag_ids)
    rows = jnp.arange(batch)[:, None]
    return jnp.zeros((batch, n_tags), jnp.float32).at[rows, columns].set(1.0, mode="drop")


def weighted_cross_entropy(logits: jax.Array, targets: jax.Array, positive_weight: float) -> jax.Array:
    """Binary cross-entropy from logits with a weight on the positive term, element by element.

    `(1 - z) x + (1 + (q - 1) z) (log(1 + exp(-|x|)) + max(-x, 0))` for logit x, target z, weight q: finite for every
    finite logit. Source: TensorFlow, `tf.nn.weighted_cross_entropy_with_logits`.

    Args:
      logits: float32 [..., n_tags].
      targets: float32 of the same shape, 0 or 1.
      positive_weight: q.

    Returns:
      float32 of the same shape.
    """
    weight = 1.0 + (positive_weight - 1.0) * targets
    # softplus(-x) is that last factor, with the right gradient at 0 as well.
    return (1.0 - targets) * logits + weight * jax.nn.softplus(-logits)


def image_losses(logits: jax.Array, targets: jax.Array, positive_weight: float) -> jax.Array:
    """The loss of each image, mean over tags: float32 [batch]."""
    return jnp.mean(weighted_cross_entropy(logits, targets, positive_weight), axis=-1)


def weight_penalty(params: Params, l1: float, l2: float) -> jax.Array:
    """`l1` x the sum of absolute weights + `l2` x the sum of squared weights, over all kernels: float32 scalar.

    Source: `keras.regularizers.L1L2`.
    """
    kernels = [leaves["kernel"] for leaves in params.values()]
    return sum((l1 * jnp.sum(jnp.abs(one)) + l2 * jnp.sum(jnp.square(one)) for one in kernels), jnp.zeros(()))
