"""Residual networks on learnt waves of the time: the noise predictors of IDQL."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffjax.nn.networks import FLAX_NORM_EPSILON, GLOROT, LECUN, Dense, LayerNorm, waves


class LearntWaves(nn.Module):
    """``[cos(2 pi t w), sin(2 pi t w)]`` of a time of any shape, ``(*time, dim)``; ``w`` is learnt, at first normal."""

    dim: int
    deviation: float = 0.2  # of the first w

    @nn.compact
    def __call__(self, time: jax.Array) -> jax.Array:
        """``(*time, dim)``."""
        kernel = self.param("kernel", nn.initializers.normal(self.deviation), (self.dim // 2, 1))
        return waves(time, 2.0 * jnp.pi * kernel[:, 0], cos_first=True)


class ResidualBlock(nn.Module):
    """``x + Dense(activation(Dense(LayerNorm(factor x))))``, four times as wide inside; ``factor`` is that of dropout.

    The path around the layers is not dropped out.
    """

    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, factor: jax.Array | float = 1.0) -> jax.Array:
        """``x (..., width)`` to that shape; ``factor`` broadcasts against it."""
        width = x.shape[-1]
        hidden = LayerNorm(FLAX_NORM_EPSILON, name="norm")(factor * x)
        hidden = self.activation(Dense(4 * width, LECUN, name="dense_0")(hidden))
        return x + Dense(width, LECUN, name="dense_1")(hidden)


class ResidualNetwork(nn.Module):
    """LN-ResNet: an affine layer, residual blocks, the activation, an affine layer.

    Inputs are concatenated on the last axis; ``factors``, one array per block or none, multiply what enters a block.
    """

    width: int
    num_blocks: int
    output_dim: int
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, *inputs: jax.Array, factors: Sequence[jax.Array] = ()) -> jax.Array:
        """Each ``(..., width)``, to ``(..., output_dim)``."""
        x = Dense(self.width, GLOROT, name="input")(*inputs)
        for i in range(self.num_blocks):
            x = ResidualBlock(self.activation, name=f"block_{i}")(x, *factors[i : i + 1])
        return Dense(self.output_dim, GLOROT, name="output")(self.activation(x))


class WaveConditioned(nn.Module):
    """A trunk on ``[action, observation, condition]``, the condition made of learnt waves of the time by two layers.

    ``time`` is a scalar or has the leading axes of ``action``; ``observation`` broadcasts against ``action``; there is
    no activation behind the second layer. ``trunk`` takes ``factors`` of dropout.
    """

    trunk: nn.Module
    time_dim: int
    condition_dims: tuple[int, int]
    activation: Callable[[jax.Array], jax.Array]

    def setup(self) -> None:
        self.fourier = LearntWaves(self.time_dim)
        self.cond_0 = Dense(self.condition_dims[0], GLOROT)
        self.cond_1 = Dense(self.condition_dims[1], GLOROT)

    def embed_time(self, time: jax.Array) -> jax.Array:
        """The condition, ``(*time, condition_dims[1])``."""
        return self.cond_1(self.activation(self.cond_0(self.fourier(time))))

    def __call__(
        self, action: jax.Array, time: jax.Array, observation: jax.Array, factors: Sequence[jax.Array] = ()
    ) -> jax.Array:
        """What the trunk puts out, ``(..., output_dim)``."""
        return self.given_features(action, self.embed_time(time), observation, factors)

    def given_features(
        self, action: jax.Array, features: jax.Array, observation: jax.Array, factors: Sequence[jax.Array] = ()
    ) -> jax.Array:
        """The output for a condition that :meth:`embed_time` made."""
        return self.trunk(action, observation, features, factors=factors)
