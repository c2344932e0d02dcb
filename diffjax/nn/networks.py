"""Linen modules of every method, and the initialisers their authors used.

Inputs that a paper concatenates are passed as separate arrays to one layer with one kernel (:class:`Dense`): the
function is the same, but an input that many candidates share (a state, a time step) is multiplied only once.
Layers are called ``layer_0, layer_1, ...``, norms ``norm_0, ...``, time layers ``time_0, time_1``.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Params = Any
LAYER_NORM_EPSILON = 1e-5  # PyTorch's default
FLAX_NORM_EPSILON = 1e-6  # Flax's default, of programs that are written with it


class Initializer(NamedTuple):
    """How a layer starts: ``kernel(key, shape)`` and ``bias(key, shape, fan_in)``."""

    kernel: Callable[..., jax.Array]
    bias: Callable[..., jax.Array]


def _fan_in_uniform(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    bound = 1.0 / np.sqrt(fan_in)
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def _orthogonal(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Uniformly distributed orthonormal columns, or rows where those are fewer: Gram-Schmidt, every step done twice.

    The result is that of ``nn.initializers.orthogonal``, but no LAPACK is called: two of its factorisations in one
    program wait for each other for ever when the CPU has two cores (jaxlib 0.10.2).
    """
    rows, columns = max(shape), min(shape)
    gaussian = jax.random.normal(key, (rows, columns))

    def append(column: jax.Array, basis: jax.Array) -> jax.Array:
        vector = gaussian[:, column]
        for _ in range(2):
            inside = jnp.matmul(vector, basis, precision=jax.lax.Precision.HIGHEST)
            vector = vector - jnp.matmul(basis, inside, precision=jax.lax.Precision.HIGHEST)
        return basis.at[:, column].set(vector / jnp.linalg.norm(vector))

    basis = jax.lax.fori_loop(0, columns, append, jnp.zeros_like(gaussian))
    return basis if shape == basis.shape else basis.T


def _zeros(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    return jnp.zeros(shape)


TORCH = Initializer(lambda key, shape: _fan_in_uniform(key, shape, shape[0]), _fan_in_uniform)
"""PyTorch's default: kernel and bias uniform in ``+-1 / sqrt(fan_in)``."""
GLOROT = Initializer(nn.initializers.xavier_uniform(), _zeros)
LECUN = Initializer(nn.initializers.lecun_normal(), _zeros)
"""Flax's default: kernel normal with variance ``1 / fan_in``, cut at two deviations, bias zero."""
ORTHOGONAL = Initializer(_orthogonal, _zeros)
SMALL_UNIFORM = Initializer(lambda key, shape: jax.random.uniform(key, shape, minval=-0.01, maxval=0.01), _zeros)
"""Kernel uniform in ``+-0.01``, bias zero (DiffPoGAN's flow)."""


def uniform_initializer(bound: float) -> Initializer:
    """Kernel and bias uniform in ``+-bound``."""
    draw = lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)  # noqa: E731
    return Initializer(draw, lambda key, shape, fan_in: draw(key, shape))


def scaled_initializer(initializer: Initializer, gain: float) -> Initializer:
    """Kernel times ``gain``, the bias as it was."""
    return Initializer(lambda key, shape: np.float32(gain) * initializer.kernel(key, shape), initializer.bias)


ORTHOGONAL_SQRT2 = scaled_initializer(ORTHOGONAL, np.sqrt(2.0))


@jax.custom_jvp
def mish(x: jax.Array) -> jax.Array:
    """``x tanh(softplus(x))`` with one exponential: ``x n / (n + 2)``, ``n = e^x (e^x + 2)``."""
    return x * _mish_parts(x)[0]


def _mish_parts(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``tanh(softplus(x))`` and its derivative.

    The exponent is capped at 20, where the quotient is 1 in float32 and its square would soon overflow.
    """
    exponential = jnp.exp(jnp.minimum(x, 20.0))
    n = exponential * (exponential + 2.0)
    denominator = n + 2.0
    return n / denominator, 4.0 * exponential * (exponential + 1.0) / denominator**2


@mish.defjvp
def _mish_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # Written out so that a chain of denoising steps keeps one array per activation for its gradient, not five.
    (x,), (x_dot,) = primals, tangents
    quotient, slope = _mish_parts(x)
    return x * quotient, (quotient + x * slope) * x_dot


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float = LAYER_NORM_EPSILON) -> jax.Array:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` over the last axis; biased variance."""
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    centered = x - jnp.mean(x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + epsilon)
    standard = centered * inverse
    return standard * scale + bias, (standard, inverse, scale)


def _layer_norm_backward(
    epsilon: float, saved: tuple[jax.Array, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Sums are written as products with ones: on a CPU, XLA's own sums here take as long as the whole network.
    standard, inverse, scale = saved
    width = standard.shape[-1]
    sum_of = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    average = lambda values: sum_of(values, jnp.full((width, 1), 1.0 / width))  # noqa: E731
    over_batch = lambda values: sum_of(jnp.ones(values.size // width), values.reshape(-1, width))  # noqa: E731
    inner = cotangent * scale
    x_bar = inverse * (inner - average(inner) - standard * average(inner * standard))
    return x_bar, over_batch(cotangent * standard), over_batch(cotangent)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
    """:func:`layer_norm` with a learnt ``scale`` and ``bias``."""

    epsilon: float = LAYER_NORM_EPSILON

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``x (..., width)``."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        return layer_norm(x, scale, self.param("bias", nn.initializers.zeros, shape), self.epsilon)


def leaky_relu(x: jax.Array) -> jax.Array:
    """``max(x, 0.01 x)``."""
    return nn.leaky_relu(x, 0.01)


class Dense(nn.Module):
    """Affine layer on the concatenation of its inputs, whose leading axes need only broadcast.

    Inputs of equal leading shape are concatenated and multiplied as one; a smaller one is multiplied apart and added.
    """

    features: int
    initializer: Initializer

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Each ``(..., width)``, to ``(..., features)``."""
        sizes = [x.shape[-1] for x in inputs]
        kernel = self.param("kernel", self.initializer.kernel, (sum(sizes), self.features))
        bias = self.param("bias", self.initializer.bias, (self.features,), sum(sizes))
        if len({x.shape[:-1] for x in inputs}) == 1:
            return jnp.concatenate(inputs, axis=-1) @ kernel + bias
        blocks = jnp.split(kernel, np.cumsum(sizes)[:-1].tolist())
        groups: dict[tuple[int, ...], list[tuple[jax.Array, jax.Array]]] = {}
        for x, block in zip(inputs, blocks, strict=True):
            groups.setdefault(x.shape[:-1], []).append((x, block))
        products = []
        for pairs in groups.values():
            columns, rows = zip(*pairs, strict=True)
            products.append(jnp.concatenate(columns, axis=-1) @ jnp.concatenate(rows))
        return sum(products, start=bias)


def concatenated(*inputs: jax.Array) -> jax.Array:
    """The inputs ``(..., width)`` side by side on the last axis, ``(..., sum of widths)``; leading axes broadcast."""
    leading = jnp.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    return jnp.concatenate([jnp.broadcast_to(x, (*leading, x.shape[-1])) for x in inputs], axis=-1)


class MLP(nn.Module):
    """Hidden layers (affine, optional LayerNorm, activation) and a linear output layer.

    ``linear_first`` leaves out the first hidden layer's activation, ``norm_last`` puts the LayerNorm behind the
    activation, ``norm_input`` puts one more before the first layer; ``output_initializer`` is that of the output layer
    where it is another. Inputs are concatenated on the last axis; ``factors``, one array per hidden layer or none,
    multiply what a hidden layer puts out (dropout).
    """

    hidden_dims: tuple[int, ...]
    output_dim: int
    activation: Callable[[jax.Array], jax.Array]
    initializer: Initializer
    layer_norm: bool = False
    linear_first: bool = False
    norm_last: bool = False
    norm_input: bool = False
    norm_epsilon: float = LAYER_NORM_EPSILON
    output_initializer: Initializer | None = None

    @nn.compact
    def __call__(self, *inputs: jax.Array, factors: Sequence[jax.Array] = ()) -> jax.Array:
        """Each ``(..., width)``, to ``(..., output_dim)``."""
        hidden: tuple[jax.Array, ...] = inputs
        if self.norm_input:
            hidden = (LayerNorm(self.norm_epsilon, name="norm_in")(concatenated(*inputs)),)
        for i, width in enumerate(self.hidden_dims):
            x = Dense(width, self.initializer, name=f"layer_{i}")(*hidden)
            norm = LayerNorm(self.norm_epsilon, name=f"norm_{i}") if self.layer_norm else lambda x: x
            x = x if self.norm_last else norm(x)
            x = x if self.linear_first and i == 0 else self.activation(x)
            x = norm(x) if self.norm_last else x
            hidden = (x * factors[i] if factors else x,)
        output = self.output_initializer or self.initializer
        return Dense(self.output_dim, output, name=f"layer_{len(self.hidden_dims)}")(*hidden)


def waves(time: jax.Array, frequency: jax.Array | np.ndarray, cos_first: bool) -> jax.Array:
    """``[sin(t f), cos(t f)]``, or cosines first: ``time`` of any shape and ``frequency (n,)`` to ``(*time, 2 n)``."""
    return sin_cos(jnp.asarray(time, jnp.float32)[..., None] * frequency, cos_first)


def sin_cos(angle: jax.Array, cos_first: bool) -> jax.Array:
    """``[sin, cos]`` of each row of angles, or cosines first: ``(..., n)`` to ``(..., 2 n)``."""
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([cos, sin] if cos_first else [sin, cos], axis=-1)


def sinusoidal(time: jax.Array, dim: int, cos_first: bool, endpoint: bool = True) -> jax.Array:
    """Sinusoidal features of ``time`` (any shape), ``(*time, dim)``.

    ``f_k = exp(-k ln(10000) / n)``; ``[sin(t f), cos(t f)]``, or cosines first. ``time`` is not scaled. ``n`` is
    ``dim / 2 - 1``, so that the last frequency is 1 / 10000, or without ``endpoint`` ``dim / 2``.
    """
    half = dim // 2
    intervals = half - 1 if endpoint else half
    frequency = np.exp(-np.arange(half) * np.log(10000.0) / intervals).astype(np.float32)
    return waves(time, frequency, cos_first)


class NoiseNetwork(nn.Module):
    """Network of a diffusion policy: ``(noisy action, time, observation) -> (..., action_dim)``.

    ``time`` is a scalar or has the leading axes of ``action``; ``observation`` broadcasts against ``action``.
    ``input_order`` is the order in which the authors concatenate (it permutes the first kernel's rows).
    """

    action_dim: int
    hidden_dims: tuple[int, ...]
    initializer: Initializer
    input_order: tuple[str, str, str]
    time_dim: int = 16
    time_hidden_dims: tuple[int, int] = (32, 16)
    cos_first: bool = False
    time_endpoint: bool = True
    linear_first: bool = False
    layer_norm: bool = False
    norm_epsilon: float = LAYER_NORM_EPSILON

    def setup(self) -> None:
        self.time_0 = Dense(self.time_hidden_dims[0], self.initializer)
        self.time_1 = Dense(self.time_hidden_dims[1], self.initializer)
        self.trunk = MLP(
            self.hidden_dims,
            self.action_dim,
            mish,
            self.initializer,
            layer_norm=self.layer_norm,
            linear_first=self.linear_first,
            norm_epsilon=self.norm_epsilon,
        )

    def embed_time(self, time: jax.Array) -> jax.Array:
        """Learned time features ``(*time, time_hidden_dims[1])``."""
        features = sinusoidal(time, self.time_dim, self.cos_first, self.time_endpoint)
        return self.time_1(mish(self.time_0(features)))

    def __call__(self, action: jax.Array, time: jax.Array, observation: jax.Array) -> jax.Array:
        """The predicted noise, ``(..., action_dim)``, of a noisy action of that shape."""
        return self.given_features(action, self.embed_time(time), observation)

    def given_features(self, action: jax.Array, features: jax.Array, observation: jax.Array) -> jax.Array:
        """The output for time features that :meth:`embed_time` made."""
        inputs = {"action": action, "time": features, "observation": observation}
        return self.trunk(*(inputs[name] for name in self.input_order))


def chain_predictor(
    network: nn.Module, params: Params, time: jax.Array, observation: jax.Array
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """``(action, index) -> network(action, time[index], observation)`` for the steps of a chain, ``time (T,)``.

    The features of all times are made in one call, so that a step is left with the trunk. ``network`` has the methods
    ``embed_time`` and ``given_features`` of :class:`NoiseNetwork`.
    """
    features = network.apply(params, time, method="embed_time")

    def predict(action: jax.Array, index: jax.Array) -> jax.Array:
        return network.apply(params, action, features[index], observation, method="given_features")

    return predict


class GaussianPolicy(nn.Module):
    """One-step policy ``observation -> (mean, log_std)``, before a tanh if there is one; ``log_std`` is clipped.

    With ``free_log_std`` it is a learnt vector ``(action_dim,)``, at first 0, and no function of the observation; with
    ``log_std_line`` it is ``multiplier * output + offset``, two learnt scalars that start at these values. ``factors``
    and ``output_initializer`` as in :class:`MLP`. The defaults are those of DTQL, agents/dtql.py.
    """

    action_dim: int
    hidden_dims: tuple[int, ...]
    initializer: Initializer = ORTHOGONAL
    log_std_range: tuple[float, float] = (-5.0, 2.0)
    free_log_std: bool = False
    log_std_line: tuple[float, float] | None = None
    output_initializer: Initializer | None = None

    @nn.compact
    def __call__(self, observation: jax.Array, factors: Sequence[jax.Array] = ()) -> tuple[jax.Array, jax.Array]:
        """Mean ``(..., action_dim)`` and logarithm of the deviation, of that shape or ``(action_dim,)``."""
        outputs, last = self.action_dim if self.free_log_std else 2 * self.action_dim, self.output_initializer
        trunk = MLP(self.hidden_dims, outputs, nn.relu, self.initializer, output_initializer=last, name="trunk")
        output = trunk(observation, factors=factors)
        if self.free_log_std:
            mean, log_std = output, self.param("log_std", nn.initializers.zeros, (self.action_dim,))
        else:
            mean, log_std = jnp.split(output, 2, axis=-1)
        if self.log_std_line is not None:
            start = [nn.initializers.constant(value) for value in self.log_std_line]
            log_std = self.param("log_std_multiplier", start[0], ()) * log_std
            log_std += self.param("log_std_offset", start[1], ())
        return mean, jnp.clip(log_std, *self.log_std_range)


class Discriminator(nn.Module):
    """``(observation, action) -> (...,)`` in ``(0, 1)``; the sigmoid stays for every divergence.

    Source: DiffPoGAN, agents/diffpogan.py.
    """

    hidden_dims: tuple[int, ...]

    @nn.compact
    def __call__(self, observation: jax.Array, action: jax.Array) -> jax.Array:
        """The probability that an action is the data's, ``(...,)``."""
        trunk = MLP(self.hidden_dims, 1, leaky_relu, TORCH, name="trunk")
        return nn.sigmoid(trunk(observation, action)[..., 0])


class NICEFlow(nn.Module):
    """Additive-coupling flow on ``y``; returns ``z`` and ``log |det dz/dy|``.

    Couplings alternate which half shifts the other; every layer of a shift net, the last too, ends in a leaky ReLU; the
    authors' batch norm always runs untrained and divides the input of each layer by ``sqrt(1 + 1e-6)``.
    Source: DiffPoGAN, agents/model.py.
    """

    hidden_dim: int
    num_couplings: int = 4

    @nn.compact
    def __call__(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``z`` of the shape ``(..., dim)`` of ``y``, and the logarithm of the determinant, a scalar."""
        dim = y.shape[-1]
        first, second = y[..., : dim // 2], y[..., dim // 2 :]
        for i in range(self.num_couplings):
            source, target = (first, second) if i % 2 == 0 else (second, first)
            shift = source
            for j, width in enumerate((self.hidden_dim, self.hidden_dim, target.shape[-1])):
                layer = Dense(width, SMALL_UNIFORM, name=f"coupling_{i}_layer_{j}")
                shift = leaky_relu(layer(shift / np.float32(np.sqrt(1.0 + 1e-6))))
            first, second = (first, second + shift) if i % 2 == 0 else (first + shift, second)
        log_scale = self.param("log_scale", nn.initializers.zeros, (1, dim))
        z = jnp.concatenate([first, second], axis=-1) * jnp.exp(log_scale[0])
        return z, jnp.sum(log_scale)

    def log_density(self, y: jax.Array) -> jax.Array:
        """``log p(y)`` under a standard logistic prior, ``(...,)``: ``sum_d (z - 2 softplus(z)) + log det``."""
        z, log_det = self(y)
        return jnp.sum(z - 2.0 * nn.softplus(z), axis=-1) + log_det


class Ensemble(NamedTuple):
    """``size`` independently initialised copies of a module with one output, stacked on a leading axis."""

    module: nn.Module
    size: int

    def init(self, key: jax.Array, *inputs: jax.Array) -> Params:
        """Fresh parameters of all members, leaves ``(size, ...)``; ``inputs`` are examples."""
        return jax.vmap(lambda k: self.module.init(k, *inputs))(jax.random.split(key, self.size))

    def apply(self, params: Params, *inputs: jax.Array) -> jax.Array:
        """Outputs of all members on the same inputs, ``(size, ...)``."""
        return jax.vmap(lambda p: self.module.apply(p, *inputs))(params)[..., 0]


def count_params(params: Params) -> int:
    """Number of scalars in a tree of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))
