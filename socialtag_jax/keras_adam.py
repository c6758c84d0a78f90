"""Adam as Keras computes it."""

import jax
import jax.numpy as jnp
import optax


def scale_by_keras_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Adam's step, of a learning rate of 1, with epsilon added before the second moment's bias is corrected.

    `sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon)`. optax adds epsilon after the correction, which counts
    for less: 32 times less in the first step, 3 in the 100th. Gradients near epsilon, of which a pretrained network has
    many, then move their parameters further than in Keras.
    Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015, end of section 2;
    `keras.optimizers.Adam`.
    """
    adam = optax.scale_by_adam(beta1, beta2)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        _, moments = adam.update(updates, state, params)
        assert isinstance(moments, optax.ScaleByAdamState)
        step = jnp.asarray(moments.count, jnp.float32)
        scale = jnp.sqrt(1.0 - beta2**step) / (1.0 - beta1**step)
        return jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v) + epsilon), moments.mu, moments.nu), moments

    return optax.GradientTransformation(adam.init, update)
