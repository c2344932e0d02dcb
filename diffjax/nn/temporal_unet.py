"""Networks over windows of steps: a U-Net that denoises them, and its half that puts a value on them (Diffuser).

Windows are ``(..., length, channels)``, time last but one. A convolution is one matrix product with the neighbours side
by side: kernels of many runs, mapped, stay one batched product, where a convolution would become one per run.
Layers are called as the authors' blocks are counted: ``down0/res0/conv0``.
Source: Janner et al. 2022 (Diffuser), arXiv 2205.09991, diffuser/models/temporal.py, helpers.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.nn.networks import TORCH, Dense, Initializer, LayerNorm, mish, sinusoidal, uniform_initializer

GROUPS = 8
GROUP_NORM_EPSILON = 1e-5
HEADS = 4
HEAD_DIM = 32


def shifted(x: jax.Array, step: int) -> jax.Array:
    """``y[m] = x[m + step]`` along time, zeros from outside; ``x (..., length, channels)`` to that shape."""
    length = x.shape[-2]
    if step == 0:
        return x
    if abs(step) >= length:
        return jnp.zeros_like(x)
    kept = jax.lax.slice_in_dim(x, max(step, 0), length + min(step, 0), axis=-2)
    nothing = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, abs(step), axis=-2))
    return jnp.concatenate([kept, nothing] if step > 0 else [nothing, kept], axis=-2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def neighbours(x: jax.Array, length: int, steps: tuple[int, ...], stride: int) -> jax.Array:
    """``y[m] = [x[stride m + step] for step in steps]`` side by side, zeros from outside.

    ``x (..., length, channels)`` to ``(..., ceil(length / stride), len(steps) * channels)``.
    """
    found = [jax.lax.slice_in_dim(shifted(x, step), 0, length, stride, axis=-2) for step in steps]
    return jnp.concatenate(found, axis=-1)


def _neighbours_forward(x: jax.Array, length: int, steps: tuple[int, ...], stride: int) -> tuple[jax.Array, None]:
    return neighbours(x, length, steps, stride), None


def _neighbours_backward(
    length: int, steps: tuple[int, ...], stride: int, _: None, cotangent: jax.Array
) -> tuple[jax.Array]:
    # Written out as shifts the other way: the transpose of a slice is a padding, which ONNX's converter lacks.
    def spread(part: jax.Array) -> jax.Array:
        between = [jnp.zeros_like(part)] * (stride - 1)
        rows = jnp.stack([part, *between], axis=-2).reshape(*part.shape[:-2], -1, part.shape[-1])
        return jax.lax.slice_in_dim(rows, 0, length, axis=-2)

    parts = jnp.split(cotangent, len(steps), axis=-1)
    back = [shifted(spread(part), -step) for part, step in zip(parts, steps, strict=True)]
    return (functools.reduce(jnp.add, back),)


neighbours.defvjp(_neighbours_forward, _neighbours_backward)


class Conv(nn.Module):
    """Convolution along time with an odd ``width`` and zeros around; every ``stride``-th result."""

    features: int
    width: int
    stride: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``(..., length, channels)`` to ``(..., ceil(length / stride), features)``."""
        shape = (self.width, x.shape[-1], self.features)
        fan_in = self.width * x.shape[-1]
        kernel = self.param("kernel", lambda key: TORCH.kernel(key, (fan_in, self.features)).reshape(shape))
        half, length = self.width // 2, x.shape[-2]
        reached = range(max(-half, 1 - length), min(half, length - 1) + 1)  # all others are outside of every window
        rows = kernel[half + reached[0] : half + reached[-1] + 1].reshape(-1, self.features)
        y = neighbours(x, length, tuple(reached), self.stride) @ rows
        return y + self.param("bias", TORCH.bias, (self.features,), fan_in) if self.use_bias else y


class Upsample(nn.Module):
    """Transposed convolution of width 4 and stride 2, which keeps the channels and doubles the length.

    ``y[2 m] = x[m] W_1 + x[m - 1] W_3``, ``y[2 m + 1] = x[m] W_2 + x[m + 1] W_0``.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``(..., length, channels)`` to ``(..., 2 length, channels)``."""
        channels = x.shape[-1]
        start: Initializer = uniform_initializer(1.0 / np.sqrt(4 * channels))
        kernel = self.param("kernel", start.kernel, (4, channels, channels))
        bias = self.param("bias", start.bias, (channels,), 4 * channels)
        even = x @ kernel[1] + shifted(x, -1) @ kernel[3]
        odd = x @ kernel[2] + shifted(x, 1) @ kernel[0]
        return jnp.stack([even, odd], axis=-2).reshape(*x.shape[:-2], 2 * x.shape[-2], channels) + bias


class GroupNorm(nn.Module):
    """Mean 0 and deviation 1 over time and eight groups of consecutive channels; learnt ``scale`` and ``bias``.

    Raises:
      ValueError: the channels do not make eight groups.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``x (..., length, channels)``."""
        channels = x.shape[-1]
        if channels % GROUPS:
            raise ValueError(f"{channels} channels do not make {GROUPS} groups; let widths be multiples of {GROUPS}")
        grouped = x.reshape(*x.shape[:-1], GROUPS, channels // GROUPS)
        centered = grouped - jnp.mean(grouped, axis=(-3, -1), keepdims=True)
        variance = jnp.mean(centered**2, axis=(-3, -1), keepdims=True)
        standard = (centered * jax.lax.rsqrt(variance + GROUP_NORM_EPSILON)).reshape(x.shape)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        return standard * scale + self.param("bias", nn.initializers.zeros, (channels,))


class ResidualBlock(nn.Module):
    """Two convolutions of width 5, each with norm and Mish; the features of time are added between them."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """``x (..., length, channels)``, ``time (..., time_dim)`` to ``(..., length, features)``."""
        hidden = mish(GroupNorm(name="norm0")(Conv(self.features, 5, name="conv0")(x)))
        hidden += Dense(self.features, TORCH, name="time")(mish(time))[..., None, :]
        hidden = mish(GroupNorm(name="norm1")(Conv(self.features, 5, name="conv1")(hidden)))
        return hidden + (x if x.shape[-1] == self.features else Conv(self.features, 1, name="skip")(x))


class LinearAttention(nn.Module):
    """Residual attention over time, linear in its length: keys are normalised over time, queries are not.

    ``context = sum_n softmax_n(k_n) v_n^T``, ``y_n = context^T q_n / sqrt(32)``, in four heads.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``x (..., length, channels)``."""
        qkv = Conv(3 * HEADS * HEAD_DIM, 1, use_bias=False, name="qkv")(LayerNorm(name="norm")(x))
        query, key, value = jnp.moveaxis(qkv.reshape(*qkv.shape[:-1], 3, HEADS, HEAD_DIM), -3, 0)
        context = jnp.einsum("...nhd,...nhe->...hde", nn.softmax(key, axis=-3), value)
        found = jnp.einsum("...hde,...nhd->...nhe", context, query / np.sqrt(HEAD_DIM).astype(np.float32))
        return x + Conv(x.shape[-1], 1, name="out")(found.reshape(*found.shape[:-2], HEADS * HEAD_DIM))


class Level(nn.Module):
    """Residual blocks of one resolution, perhaps attention."""

    features: int
    blocks: tuple[str, ...]
    attention: bool = False
    resample: str = ""  # what follows: "downsample" halves the length, "upsample" doubles it

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The blocks' result ``(..., length, features)``, and the same with another length where there is to be one."""
        for name in self.blocks:
            x = ResidualBlock(self.features, name=name)(x, time)
        x = LinearAttention(name="attn")(x) if self.attention else x
        if self.resample == "downsample":
            return x, Conv(self.features, 3, stride=2, name="downsample")(x)
        return x, Upsample(name="upsample")(x) if self.resample else x


class TimeFeatures(nn.Module):
    """Learnt features of the step index; a mixin for networks that name the layers as their own."""

    dim: int

    def embed_time(self, time: jax.Array) -> jax.Array:
        """``(*time, dim)``."""
        hidden = Dense(4 * self.dim, TORCH, name="time_0")(sinusoidal(time, self.dim, cos_first=False))
        return Dense(self.dim, TORCH, name="time_1")(mish(hidden))


class TemporalUNet(TimeFeatures):
    """``(window, step index) -> window``: down by halves of time, up again with what was there on the way down.

    The length must be divisible by ``2^(levels - 1)``; the widths ``dim * dim_mults`` by 8.

    Raises:
      ValueError: one of them is not.
    """

    dim_mults: tuple[int, ...] = (1, 2, 4, 8)
    attention: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """``x (..., length, channels)``; ``time`` is a scalar or has the leading axes of ``x``."""
        channels, widths = x.shape[-1], [self.dim * mult for mult in self.dim_mults]
        if x.shape[-2] % (parts := 2 ** (len(widths) - 1)):
            raise ValueError(
                f"a horizon of {x.shape[-2]} cannot be halved {len(widths) - 1} times; take one of {parts} n"
            )
        both, embedded = ("res0", "res1"), self.embed_time(time)
        saved = []
        for i, width in enumerate(widths):
            resample = "" if i == len(widths) - 1 else "downsample"
            before, x = Level(width, both, self.attention, resample, name=f"down{i}")(x, embedded)
            saved.append(before)
        for i in range(2):
            attention = self.attention and i == 0
            _, x = Level(widths[-1], ("res",), attention, name=f"mid{i}")(x, embedded)
        for i, width in enumerate(reversed(widths[:-1])):
            x = jnp.concatenate([x, saved.pop()], axis=-1)
            _, x = Level(width, both, self.attention, "upsample", name=f"up{i}")(x, embedded)
        return Head(widths[0], channels, name="final")(x)


class Head(nn.Module):
    """The last layers of the U-Net."""

    features: int
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``(..., length, features)`` to ``(..., length, channels)``."""
        hidden = mish(GroupNorm(name="norm")(Conv(self.features, 5, name="conv")(x)))
        return Conv(self.channels, 1, name="out")(hidden)


class TemporalValue(TimeFeatures):
    """``(window, step index) -> value (...,)``: the U-Net's way down, then two narrower levels and two layers.

    The widths ``dim * dim_mults``, and a quarter of the last one, must be divisible by 8.
    """

    dim_mults: tuple[int, ...] = (1, 2, 4, 8)

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """``x (..., length, channels)``; ``time`` is a scalar or has the leading axes of ``x``."""
        widths, embedded = [self.dim * mult for mult in self.dim_mults], self.embed_time(time)
        for i, width in enumerate(widths):
            _, x = Level(width, ("res0", "res1"), resample="downsample", name=f"block{i}")(x, embedded)
        for i, width in enumerate((widths[-1] // 2, widths[-1] // 4)):
            _, x = Level(width, ("res",), resample="downsample", name=f"mid{i}")(x, embedded)
        features = jnp.swapaxes(x, -1, -2).reshape(*x.shape[:-2], -1)
        embedded = jnp.broadcast_to(embedded, (*features.shape[:-1], embedded.shape[-1]))
        hidden = mish(Dense(features.shape[-1] // 2, TORCH, name="final_0")(features, embedded))
        return Dense(1, TORCH, name="final_1")(hidden)[..., 0]
