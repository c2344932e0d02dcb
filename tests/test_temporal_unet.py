"""Networks over windows of steps: their layers by definition, and their published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.nn.networks import count_params
from diffjax.nn.temporal_unet import (
    HEAD_DIM,
    HEADS,
    Conv,
    GroupNorm,
    LinearAttention,
    TemporalUNet,
    TemporalValue,
    Upsample,
)

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("channels", "length", "dim_mults", "attention", "planner", "value"),
    [
        (14, 32, (1, 2, 4, 8), False, 3_956_302, 2_294_817),  # hopper
        (23, 4, (1, 4, 8), True, 4_114_423, 2_180_833),  # halfcheetah
        (23, 32, (1, 2, 4, 8), False, 3_958_327, 2_296_545),  # walker2d
    ],
)
def test_published_sizes(channels, length, dim_mults, attention, planner, value):
    """Weights of the authors' nets at the published widths."""
    networks = TemporalUNet(32, dim_mults, attention), TemporalValue(32, dim_mults)
    window, time = jnp.zeros((length, channels)), jnp.zeros(())
    shapes = [jax.eval_shape(network.init, KEY, window, time) for network in networks]
    assert [count_params(tree) for tree in shapes] == [planner, value]


def randomised(module, *inputs):
    """Parameters whose biases and scales are not at their start."""
    params = module.init(KEY, *inputs)
    leaves, structure = jax.tree.flatten(params)
    noise = [0.3 * jax.random.normal(jax.random.fold_in(KEY, i), leaf.shape) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, [leaf + one for leaf, one in zip(leaves, noise, strict=True)])


@pytest.mark.parametrize(("width", "stride"), [(5, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_convolution_by_its_definition(width, stride, length):
    """``y[m] = bias + sum_k x[stride m + k - width // 2] W_k``, nothing outside; also where windows reach over it."""
    conv, x = Conv(4, width, stride), jax.random.normal(KEY, (2, length, 3))
    params = randomised(conv, x)["params"]
    expected = np.zeros((2, -(-length // stride), 4)) + np.asarray(params["bias"])
    for m in range(expected.shape[1]):
        for k in range(width):
            if 0 <= (at := stride * m + k - width // 2) < length:
                expected[:, m] += x[:, at] @ params["kernel"][k]
    np.testing.assert_allclose(conv.apply({"params": params}, x), expected, atol=1e-5)
    weigh = lambda x: jnp.sum(conv.apply({"params": params}, x) * (1.0 + jnp.arange(4)))  # noqa: E731
    slope = np.zeros((length, 3))
    for m in range(expected.shape[1]):
        for k in range(width):
            if 0 <= (at := stride * m + k - width // 2) < length:
                slope[at] += params["kernel"][k] @ (1.0 + np.arange(4))
    np.testing.assert_allclose(jax.grad(weigh)(x), np.stack([slope] * 2), atol=1e-4)


def test_transposed_convolution_by_its_definition():
    """Every step adds its share to four places: ``y[2 m + k - 1] += x[m] W_k``."""
    module, x = Upsample(), jax.random.normal(KEY, (2, 3, 4))
    params = randomised(module, x)["params"]
    expected = np.zeros((2, 8, 4))
    for m in range(3):
        for k in range(4):
            expected[:, 2 * m + k] += x[:, m] @ params["kernel"][k]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected[:, 1:-1] + params["bias"], atol=1e-5)


def test_group_norm_by_its_definition():
    """Eight groups of two neighbouring channels, each over all of time."""
    module, x = GroupNorm(), 3 + 2 * jax.random.normal(KEY, (2, 5, 16))
    params = randomised(module, x)["params"]
    expected = np.zeros((2, 5, 16))
    for row in range(2):
        for group in range(8):
            part = np.asarray(x[row, :, 2 * group : 2 * group + 2], np.float64)
            expected[row, :, 2 * group : 2 * group + 2] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    expected = expected * params["scale"] + params["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=1e-5)


def test_attention_by_its_definition():
    """Head by head: keys add up to one over time, for every one of their numbers; queries are only scaled."""
    module, x = LinearAttention(), jax.random.normal(KEY, (5, 16))
    params = randomised(module, x)["params"]
    mean, variance = np.mean(x, axis=-1, keepdims=True), np.var(x, axis=-1, keepdims=True)
    normed = (x - mean) / np.sqrt(variance + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    qkv = np.asarray(normed @ params["qkv"]["kernel"][0]).reshape(5, 3, HEADS, HEAD_DIM)
    found = np.zeros((5, HEADS, HEAD_DIM))
    for head in range(HEADS):
        query, key, value = (qkv[:, part, head] for part in range(3))
        weight = np.exp(key) / np.sum(np.exp(key), axis=0)
        found[:, head] = (query / np.sqrt(HEAD_DIM)) @ (weight.T @ value)
    expected = x + found.reshape(5, -1) @ params["out"]["kernel"][0] + params["out"]["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "length", "words"),
    [
        (TemporalUNet(8, (1, 1, 1)), 6, "a horizon of 6 cannot be halved 2 times"),
        (TemporalValue(8, (1, 2)), 4, "4 channels do not make 8 groups"),
    ],
)
def test_sizes_that_do_not_fit_are_said(network, length, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(network.init, KEY, jnp.zeros((length, 3)), jnp.zeros(()))


@pytest.mark.slow  # compiles whole nets
@pytest.mark.parametrize("make", [TemporalUNet, TemporalValue])
def test_every_plan_is_taken_alone_and_times_broadcast(make):
    network, x = make(8, (1, 8)), jax.random.normal(KEY, (3, 4, 5))
    params, apply = randomised(network, x, jnp.zeros(())), jax.jit(network.apply)
    times = jnp.array([0, 3, 19])
    together = apply(params, x, times)
    assert together.shape == (x.shape if make is TemporalUNet else (3,))
    np.testing.assert_allclose(apply(params, x, jnp.int32(3))[1], together[1], rtol=1e-4, atol=1e-4)
    assert np.max(np.abs(apply(params, x, jnp.int32(4))[1] - together[1])) > 1e-3
    moved = apply(params, x.at[0].add(1.0), times)
    np.testing.assert_allclose(moved[1:], together[1:], rtol=1e-4, atol=1e-4)
    assert np.max(np.abs(moved[0] - together[0])) > 1e-3
