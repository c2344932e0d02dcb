"""Networks of QGPO and SfBC: score networks of a continuous diffusion, and the energy that guides one.

Time enters through random Fourier features with frequencies that are drawn once and never trained: they are an
argument of :func:`fourier_features` and no parameter of any network, so that no optimiser moves them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.nn.networks import MLP, TORCH, Dense, sin_cos

NUM_FREQUENCIES, FREQUENCY_STD = 16, 30.0
FEATURES = 2 * NUM_FREQUENCIES  # also the width of the layers that embed time and observation


def draw_frequencies(key: jax.Array) -> jax.Array:
    """Frequencies of the time features, ``N(0, 30^2)``, ``(16,)``."""
    return FREQUENCY_STD * jax.random.normal(key, (NUM_FREQUENCIES,))


def phases(time: jax.Array, frequency: jax.Array) -> jax.Array:
    """``time frequency 2 pi``, ``(*time, n)``, in this order in float32: hundreds of radians, so rounding shows."""
    return jnp.asarray(time, jnp.float32)[..., None] * frequency * 2.0 * np.float32(np.pi)


def fourier_features(time: jax.Array, frequency: jax.Array) -> jax.Array:
    """``[sin, cos]`` of the :func:`phases`, ``(*time, 2 n)``. Source: QGPO and SfBC, diffusion_SDE/model.py."""
    return sin_cos(phases(time, frequency), cos_first=False)


def dense(width: int, name: str) -> Dense:
    """An affine layer that begins as PyTorch's."""
    return Dense(width, TORCH, name=name)


class ConditionedBlock(nn.Module):
    """``y = SiLU(W_1 h) + skip(x)``, ``h = SiLU(W_0 x) + W_e SiLU(e)``; the skip is linear where the width changes.

    The inputs are concatenated; their leading axes, and those of the embedding ``e``, need only broadcast.
    """

    features: int

    @nn.compact
    def __call__(self, embedding: jax.Array, *inputs: jax.Array) -> jax.Array:
        """``(..., features)``."""
        hidden = nn.silu(dense(self.features, "dense_0")(*inputs)) + dense(self.features, "time")(nn.silu(embedding))
        hidden = nn.silu(dense(self.features, "dense_1")(hidden))
        if sum(x.shape[-1] for x in inputs) == self.features:
            return hidden + jnp.concatenate(inputs, axis=-1)
        return hidden + dense(self.features, "skip")(*inputs)


class ScoreNetwork(nn.Module):
    """A U of residual blocks over a noisy action: ``(action, time features, observation) -> (..., action_dim)``.

    Widths ``w_1 .. w_n`` on the way down and ``w_{n-1} .. w_1`` on the way up, where each block also gets what the one
    of the same place put out. The observation enters through the embedding alone, which is ``w_n`` wide. The result is
    minus the predicted noise, that is the score times ``sigma``.
    Source: QGPO and SfBC, diffusion_SDE/model.py (``ScoreNet``).
    """

    action_dim: int
    hidden_dims: tuple[int, ...]

    @nn.compact
    def __call__(self, action: jax.Array, features: jax.Array, observation: jax.Array) -> jax.Array:
        """``action (..., action_dim)`` to that shape; ``features (..., 32)`` are those of :func:`fourier_features`."""
        condition = nn.silu(dense(FEATURES, "cond")(observation))
        embedding = nn.silu(dense(self.hidden_dims[-1], "time_0")(condition, dense(FEATURES, "embed")(features)))
        embedding = dense(self.hidden_dims[-1], "time_1")(embedding)
        x, passed = action, []
        for place, width in enumerate(self.hidden_dims, 1):
            x = ConditionedBlock(width, name=f"down{place}")(embedding, x)
            passed.append(x)
        x = ConditionedBlock(self.hidden_dims[-1], name="mid")(embedding, x)
        for place in range(len(self.hidden_dims), 1, -1):
            x = ConditionedBlock(self.hidden_dims[place - 2], name=f"up{place}")(embedding, passed[place - 1], x)
        return dense(self.action_dim, "out")(passed[0], x)


class SmallScoreNetwork(nn.Module):
    """An MLP for :class:`ScoreNetwork`'s purpose; the first of ``hidden_dims`` is the width of the inputs' own layer.

    Source: SfBC, diffusion_SDE/model.py (``MlpScoreNet``).
    """

    action_dim: int
    hidden_dims: tuple[int, ...]

    @nn.compact
    def __call__(self, action: jax.Array, features: jax.Array, observation: jax.Array) -> jax.Array:
        """``action (..., action_dim)`` to that shape; ``features (..., 32)`` are those of :func:`fourier_features`."""
        first, *others = self.hidden_dims
        time = dense(FEATURES, "dense_t")(nn.silu(dense(FEATURES, "embed")(features)))
        hidden: tuple[jax.Array, ...] = (dense(first, "dense_x")(observation, action), time)
        for place, width in enumerate(others):
            hidden = (nn.silu(dense(width, f"block_{place}")(*hidden)),)
        return dense(self.action_dim, "decoder")(*hidden)


class EnergyNetwork(nn.Module):
    """The guidance ``f(a, t, s)``, ``(...,)``: an MLP over ``[noisy action, time embedding, observation]``.

    Source: QGPO, diffusion_SDE/model.py (``GuidanceQt``).
    """

    hidden_dims: tuple[int, ...]

    @nn.compact
    def __call__(self, action: jax.Array, features: jax.Array, observation: jax.Array) -> jax.Array:
        """``action (..., action_dim)`` to one number each, ``(...,)``."""
        embedding = Dense(FEATURES, TORCH, name="embed")(features)
        trunk = MLP(self.hidden_dims, 1, nn.silu, TORCH, name="trunk")
        return trunk(action, embedding, observation)[..., 0]
