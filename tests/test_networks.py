"""Networks: sizes against the published ones, initial laws, and each layer against arithmetic done by hand."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.methods import dac, diffpogan, dtql, qgpo, sfbc
from diffjax.nn.networks import (
    GLOROT,
    LECUN,
    MLP,
    ORTHOGONAL,
    ORTHOGONAL_SQRT2,
    SMALL_UNIFORM,
    TORCH,
    Dense,
    Discriminator,
    Ensemble,
    GaussianPolicy,
    NICEFlow,
    NoiseNetwork,
    chain_predictor,
    count_params,
    leaky_relu,
    mish,
    scaled_initializer,
    sinusoidal,
    uniform_initializer,
)
from diffjax.nn.residual import LearntWaves, ResidualBlock, ResidualNetwork, WaveConditioned
from diffjax.nn.score import (
    ConditionedBlock,
    EnergyNetwork,
    ScoreNetwork,
    SmallScoreNetwork,
    draw_frequencies,
    fourier_features,
)
from diffjax.types import Spec

WALKER2D = Spec(observation_dim=17, action_dim=6)


def fresh(method, spec):
    """Shapes of a state with the published hyper-parameters; nothing is computed."""
    return jax.eval_shape(lambda key: method.init(key, spec, method.Hyper()), jax.random.key(0))


def init(module, *inputs, seed=0):
    """Fresh parameters of a module, in one program."""
    return jax.jit(module.init)(jax.random.key(seed), *inputs)


def test_sizes_of_dac():
    state = fresh(dac, WALKER2D)
    assert count_params(state.actor.params) == 149_062
    assert count_params(state.target_actor) == 149_062
    assert count_params(state.critic.params) == 10 * 137_985
    assert count_params(state.target_critic) == 10 * 137_985


def test_sizes_of_dtql():
    state = fresh(dtql, WALKER2D)
    assert count_params(state.behavior.params) == 210_230
    assert count_params(state.critic.params.q) == 2 * 139_521
    assert count_params(state.critic.params.v) == 136_449
    assert count_params(state.policy.params) == 139_276


@pytest.mark.parametrize(
    ("observation_dim", "action_dim", "network", "critics", "guidance", "small", "critic", "large_critic"),
    [
        (11, 3, 1_627_939, 271_362, 210_721, 400_739, 69_889, 205_057),  # hopper
        (17, 6, 1_634_278, 275_970, 213_025, 403_526, 72_193, 209_665),  # halfcheetah, walker2d
        (29, 8, 1_638_760, 283_138, 216_609, 407_176, 75_777, 216_833),  # antmaze
        (60, 9, 1_641_801, 299_522, 224_801, 414_601, 83_969, 233_217),  # kitchen
        (4, 2, 1_625_666, 267_266, 208_673, 398_690, 67_841, 200_961),  # maze2d
    ],
)
def test_sizes_of_qgpo_and_sfbc(observation_dim, action_dim, network, critics, guidance, small, critic, large_critic):
    spec = Spec(observation_dim, action_dim)
    state = fresh(qgpo, spec)
    assert count_params(state.behavior.params) == network
    assert count_params(state.critic.params) == count_params(state.target_critic) == critics
    assert count_params(state.guidance.params) == guidance
    state = fresh(sfbc, spec)
    assert (count_params(state.behavior.params), count_params(state.critic.params)) == (network, critic)
    other = sfbc.Hyper(score_network="small", hidden_dims=(512, 256, 256))
    state = jax.eval_shape(lambda key: sfbc.init(key, spec, other), jax.random.key(0))
    assert (count_params(state.behavior.params), count_params(state.critic.params)) == (small, large_critic)


@pytest.mark.parametrize(
    ("observation_dim", "action_dim", "noise_network", "critic", "discriminator", "flow"),
    [
        (11, 3, 141_363, 135_681, 126_601, 2_298_042),  # hopper
        (17, 6, 144_438, 137_985, 130_201, 2_325_069),  # halfcheetah, walker2d
        (29, 8, 148_536, 141_569, 135_801, 2_367_111),  # antmaze
        (45, 24, 160_840, 149_761, 148_601, 2_463_207),  # pen
        (60, 9, 156_985, 149_761, 148_601, 2_463_207),  # kitchen
    ],
)
def test_sizes_of_the_diffusion_ql_family(observation_dim, action_dim, noise_network, critic, discriminator, flow):
    state = fresh(diffpogan, Spec(observation_dim, action_dim))
    assert count_params(state.core.actor.params) == noise_network
    assert count_params(state.core.critic.params) == 2 * critic
    assert count_params(state.discriminator.params) == discriminator
    assert count_params(state.flow) == flow


def initial(initializer, inputs, features):
    """Kernel and bias of a fresh layer on inputs of the given sizes."""
    params = init(Dense(features, initializer), *(jnp.zeros(size) for size in inputs))["params"]
    return np.asarray(params["kernel"]), np.asarray(params["bias"])


def assert_uniform(values, bound):
    """Fills ``[-bound, bound]`` to its edges with the mean and the spread of a uniform law."""
    assert np.max(np.abs(values)) <= bound
    assert np.max(values) > 0.99 * bound
    assert np.min(values) < -0.99 * bound
    error = 4 / math.sqrt(values.size)  # in units of the bound, well above four standard errors
    assert abs(np.mean(values)) < error * bound
    assert abs(np.std(values) - bound / math.sqrt(3)) < error * bound


def test_torch_law_counts_all_inputs():
    kernel, bias = initial(TORCH, (20, 5), 4000)
    assert kernel.shape == (25, 4000)
    assert_uniform(kernel, 1 / 5)
    assert_uniform(bias, 1 / 5)


def test_glorot_law():
    kernel, bias = initial(GLOROT, (100,), 50)
    assert_uniform(kernel, 0.2)  # sqrt(6 / (100 + 50))
    assert not bias.any()


def test_lecun_law():
    """Variance 1 / fan-in, of a normal cut at two deviations and widened to have it; nothing beyond."""
    kernel = np.asarray(LECUN.kernel(jax.random.key(0), (400, 300)))
    assert np.std(kernel) == pytest.approx(1 / 20, rel=0.02)
    assert np.max(np.abs(kernel)) < 2.28 / 20
    assert not LECUN.bias(jax.random.key(0), (3,), 400).any()


def test_small_uniform_law():
    kernel, bias = initial(SMALL_UNIFORM, (100,), 50)
    assert_uniform(kernel, 0.01)
    assert not bias.any()


@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (5, 5), (5, 7)])
def test_orthogonal_law(rows, columns):
    kernel, bias = initial(ORTHOGONAL, (rows,), columns)
    gram = kernel.T @ kernel if rows >= columns else kernel @ kernel.T
    np.testing.assert_allclose(gram, np.eye(min(rows, columns)), atol=1e-6)
    assert not bias.any()
    key = jax.random.key(3)
    same = nn.initializers.orthogonal()(key, (rows, columns))
    np.testing.assert_allclose(ORTHOGONAL.kernel(key, (rows, columns)), same, atol=1e-5)


def test_orthogonal_times_the_root_of_two():
    kernel, bias = initial(ORTHOGONAL_SQRT2, (7,), 5)
    np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(5), atol=2e-6)
    assert not bias.any()


def test_uniform_law_of_kernel_and_bias():
    kernel, bias = initial(uniform_initializer(3e-3), (20,), 4000)
    assert_uniform(kernel, 3e-3)
    assert_uniform(bias, 3e-3)


def test_output_layer_may_start_by_a_law_of_its_own():
    mlp = MLP((50,), 40, nn.relu, TORCH, output_initializer=SMALL_UNIFORM)
    layers = init(mlp, jnp.zeros(30))["params"]
    assert_uniform(layers["layer_0"]["kernel"], 1 / math.sqrt(30))
    assert_uniform(layers["layer_1"]["kernel"], 0.01)


def test_each_method_starts_by_its_own_law():
    spec, small = Spec(5, 3), {"hidden_dims": (16,)}
    start = lambda method, hyper: jax.jit(lambda key: method.init(key, spec, hyper))(jax.random.key(0))  # noqa: E731
    state = start(dac, dac.Hyper(num_critics=3, **small))
    for layer in state.actor.params["params"]["trunk"].values():
        bound = math.sqrt(6 / sum(layer["kernel"].shape))
        assert 0.7 * bound < np.max(np.abs(layer["kernel"])) <= bound
        assert not layer["bias"].any()
    for layer in state.critic.params["params"].values():
        bound = math.sqrt(6 / sum(layer["kernel"].shape[1:]))
        assert 0.7 * bound < np.max(np.abs(layer["kernel"])) <= bound
        assert not layer["bias"].any()

    state = start(dtql, dtql.Hyper(**small))
    for layer in state.policy.params["params"]["trunk"].values():
        kernel = np.asarray(layer["kernel"])
        kernel = kernel if kernel.shape[0] >= kernel.shape[1] else kernel.T
        np.testing.assert_allclose(kernel.T @ kernel, np.eye(kernel.shape[1]), atol=1e-5)
        assert not layer["bias"].any()
    for name, layer in state.critic.params.q["params"].items():
        if name.startswith("norm_"):
            assert (layer["scale"] == 1).all()
            assert not layer["bias"].any()
        else:
            bound = 1 / math.sqrt(layer["kernel"].shape[1])
            assert 0.7 * bound < np.max(np.abs(layer["kernel"])) <= bound
            assert 0.3 * bound < np.max(np.abs(layer["bias"])) <= bound


def test_members_of_an_ensemble_start_apart_and_again_alike():
    ensemble, inputs = Ensemble(MLP((4,), 1, mish, TORCH), 3), (jnp.zeros(3), jnp.zeros(2))
    fresh_ensemble = jax.jit(lambda key: ensemble.init(key, *inputs))
    params = fresh_ensemble(jax.random.key(1))
    for leaf in jax.tree.leaves(params):
        assert leaf.shape[0] == 3
        assert len(np.unique(np.asarray(leaf).reshape(3, -1), axis=0)) == 3
    again, other = fresh_ensemble(jax.random.key(1)), fresh_ensemble(jax.random.key(2))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, params, again)))
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, params, other)))


def test_an_ensemble_is_its_members():
    module = MLP((4,), 1, mish, TORCH)
    observation, action = jnp.arange(10.0).reshape(2, 5), jnp.ones((2, 3))
    ensemble = Ensemble(module, 3)
    params = jax.jit(lambda key: ensemble.init(key, observation, action))(jax.random.key(0))
    together = jax.jit(ensemble.apply)(params, observation, action)
    for i, output in enumerate(together):
        alone = jax.jit(module.apply)(jax.tree.map(lambda x, i=i: x[i], params), observation, action)
        np.testing.assert_allclose(output, alone[..., 0], rtol=1e-6)


def mish_in_double(x):
    """``x tanh(softplus(x))`` and its derivative in float64, softplus without overflow."""
    x = np.asarray(x, np.float64)
    tanh = np.tanh(np.logaddexp(0.0, x))
    sigmoid = np.exp(-np.logaddexp(0.0, -x))
    return x * tanh, tanh + x * (1.0 - tanh**2) * sigmoid


def test_mish_is_x_tanh_softplus():
    x = np.concatenate([np.linspace(-100, 100, 2001), [-1e4, 1e4, -20.0, 20.0, -1e-6, 0.0]]).astype(np.float32)
    value, slope = mish_in_double(x)
    np.testing.assert_allclose(jax.jit(mish)(x), value, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(mish)))(x), slope, rtol=2e-6, atol=1e-6)


def test_mish_at_the_extremes():
    value_and_slope = jax.value_and_grad(mish)
    assert value_and_slope(100.0) == (100.0, 1.0)
    value, slope = value_and_slope(-100.0)
    assert abs(value) < 1e-37
    assert abs(slope) < 1e-37
    assert value_and_slope(0.0) == (0.0, pytest.approx(0.6, abs=1e-7))  # tanh(ln 2) = 3/5


def test_leaky_relu():
    np.testing.assert_allclose(leaky_relu(jnp.array([-2.0, 0.0, 3.0])), [-0.02, 0.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize(
    "leading",
    [
        [(4, 5), (4, 5), (4, 5)],  # one product of the concatenation
        [(4, 1), (4, 5), ()],  # per state, per sample, shared: three products
        [(4, 5), (4, 1), (4, 5)],  # the outer two belong together
    ],
)
def test_dense_on_inputs_is_dense_on_their_concatenation(leading):
    keys = jax.random.split(jax.random.key(0), 4)
    sizes = (3, 2, 7)
    inputs = [jax.random.normal(key, (*shape, size)) for key, shape, size in zip(keys[1:], leading, sizes, strict=True)]
    layer = Dense(6, TORCH)
    params = jax.jit(layer.init)(keys[0], *inputs)
    assert params["params"]["kernel"].shape == (12, 6)
    joined = jnp.concatenate([jnp.broadcast_to(x, (4, 5, x.shape[-1])) for x in inputs], axis=-1)

    @jax.jit
    def output_and_gradient(params, *inputs):
        scalar = lambda params: jnp.sum(jnp.sin(layer.apply(params, *inputs)))  # noqa: E731
        return layer.apply(params, *inputs), jax.grad(scalar)(params)

    output, gradient = output_and_gradient(params, *inputs)
    expected_output, expected_gradient = output_and_gradient(params, joined)
    assert output.shape == (4, 5, 6)
    np.testing.assert_allclose(output, expected_output, rtol=1e-5, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), gradient, expected_gradient)


def test_mlp_by_hand():
    """Two inputs, one unit per layer: ``relu(2 a + 3 b + 1)``, then ``5 x - 4``."""
    params = {
        "params": {
            "layer_0": {"kernel": jnp.array([[2.0], [3.0]]), "bias": jnp.array([1.0])},
            "layer_1": {"kernel": jnp.array([[5.0]]), "bias": jnp.array([-4.0])},
        }
    }
    module = MLP((1,), 1, nn.relu, TORCH)
    assert module.apply(params, jnp.array([1.0]), jnp.array([2.0])) == 41.0
    assert module.apply(params, jnp.array([-2.0]), jnp.array([0.0])) == -4.0
    linear = MLP((1,), 1, nn.relu, TORCH, linear_first=True)
    assert linear.apply(params, jnp.array([-2.0]), jnp.array([0.0])) == -19.0


def test_layer_norm_divides_by_the_published_deviation():
    """Variance 1e-5 under epsilon 1e-5 leaves ``1 / sqrt(2)``; Flax's own epsilon would leave 0.953."""
    module = MLP((2,), 1, lambda x: x, TORCH, layer_norm=True)
    params = init(module, jnp.zeros(1))["params"]
    params["layer_0"] = {"kernel": jnp.array([[1.0, -1.0]]), "bias": jnp.array([7.0, 7.0])}
    params["layer_1"] = {"kernel": jnp.array([[1.0], [0.0]]), "bias": jnp.zeros(1)}
    output = module.apply({"params": params}, jnp.array([math.sqrt(1e-5)]))
    np.testing.assert_allclose(output, [math.sqrt(0.5)], rtol=1e-3)


def test_layer_norm_behind_the_activation_and_its_own_epsilon():
    """ReLU leaves (0, 4): mean 2, variance 4; with epsilon 5 both lie 2 / 3 from the mean."""
    module = MLP((2,), 1, nn.relu, TORCH, layer_norm=True, norm_last=True, norm_epsilon=5.0)
    params = init(module, jnp.zeros(1))["params"]
    params["layer_0"] = {"kernel": jnp.array([[-1.0, 4.0]]), "bias": jnp.zeros(2)}
    params["layer_1"] = {"kernel": jnp.array([[1.0], [10.0]]), "bias": jnp.zeros(1)}
    output = module.apply({"params": params}, jnp.ones(1))
    np.testing.assert_allclose(output, [-2 / 3 + 20 / 3], rtol=1e-6)


def test_layer_norm_of_the_inputs_side_by_side():
    """(0, 4) beside (2): mean 2, variance 8 / 3; with epsilon 4 / 3 the deviation is 2. A shared input broadcasts."""
    module = MLP((), 1, nn.relu, TORCH, norm_input=True, norm_epsilon=4 / 3)
    params = init(module, jnp.zeros(2), jnp.zeros(1))["params"]
    assert set(params) == {"norm_in", "layer_0"}
    params["norm_in"] = {"scale": jnp.array([1.0, 1.0, 10.0]), "bias": jnp.array([0.0, 0.0, 0.5])}
    params["layer_0"] = {"kernel": jnp.array([[1.0], [10.0], [100.0]]), "bias": jnp.zeros(1)}
    output = module.apply({"params": params}, jnp.array([[0.0, 4.0], [2.0, 2.0]]), jnp.array([2.0]))
    np.testing.assert_allclose(output, [[-1.0 + 10.0 + 50.0], [50.0]], rtol=1e-6)


def test_factors_multiply_what_hidden_layers_put_out():
    module = MLP((2, 2), 1, nn.relu, TORCH)
    params = init(module, jnp.zeros(1))["params"]
    params["layer_0"] = {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.zeros(2)}
    params["layer_1"] = {"kernel": jnp.array([[1.0, 1.0], [1.0, -1.0]]), "bias": jnp.array([0.0, 5.0])}
    params["layer_2"] = {"kernel": jnp.array([[1.0], [100.0]]), "bias": jnp.array([0.5])}
    factors = (jnp.array([0.0, 3.0]), jnp.array([2.0, 1.0]))
    # (1, 2) -> (0, 6) -> ReLU (6, 5 - 6) = (6, 0) -> (12, 0) -> 12.5
    np.testing.assert_allclose(module.apply({"params": params}, jnp.ones(1), factors=factors), [12.5])
    # (1, 2) -> (3, 5 - 1) = (3, 4) -> 403.5
    np.testing.assert_allclose(module.apply({"params": params}, jnp.ones(1)), [403.5])


def test_time_features_by_hand():
    """Dimension 4 has the frequencies 1 and 1e-4."""
    sin, cos = [0.1411200081, 2.999999955e-4], [-0.9899924966, 0.99999995500]
    np.testing.assert_allclose(sinusoidal(3, 4, cos_first=False), sin + cos, rtol=1e-6)
    np.testing.assert_allclose(sinusoidal(3, 4, cos_first=True), cos + sin, rtol=1e-6)
    np.testing.assert_allclose(sinusoidal(0, 4, cos_first=False), [0, 0, 1, 1])


def test_time_frequencies():
    """At a time so small that the sine is its angle, the features are the frequencies of the papers' 16 dimensions."""
    frequency = [1, 0.26826958, 0.07196857, 0.01930698, 0.00517947, 0.00138950, 0.00037276, 0.0001]
    features = sinusoidal(jnp.full((2, 3), 1e-3), 16, cos_first=False)
    assert features.shape == (2, 3, 16)
    np.testing.assert_allclose(features[1, 2, :8] / 1e-3, frequency, rtol=1e-5)
    np.testing.assert_allclose(features[1, 2, 8:], 1.0, atol=1e-6)


def test_time_frequencies_without_the_endpoint():
    """EDP divides by 8 and not by 7: the last of 8 frequencies is ``10000^(-7/8)``."""
    features = sinusoidal(jnp.asarray(1e-3), 16, cos_first=True, endpoint=False)
    frequency = 10.0 ** (-0.5 * np.arange(8))
    np.testing.assert_allclose(features[8:] / 1e-3, frequency, rtol=1e-5)


def noise_network(**changes):
    return NoiseNetwork(3, (8, 8), TORCH, ("action", "time", "observation"), **changes)


def test_a_chain_makes_its_time_features_once():
    """The same predictions, and no time layer is left in a step."""
    network, times = noise_network(), jnp.array([3, 1, 2])
    action, observation = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), jnp.arange(5.0)
    params = init(network, action, times[0], observation)

    @jax.jit
    def chain(params):
        step = lambda x, index: (predict(x, index), predict(action, index))  # noqa: E731
        predict = chain_predictor(network, params, times, observation)
        return jax.lax.scan(step, action, jnp.arange(3))[1]

    for found, time in zip(chain(params), times, strict=True):
        np.testing.assert_allclose(found, network.apply(params, action, time, observation), rtol=1e-5, atol=1e-6)
    (loop,) = [
        one for one in jax.make_jaxpr(chain)(params).jaxpr.eqns[0].params["jaxpr"].eqns if "scan" in str(one.primitive)
    ]
    assert "sin" not in str(loop.params["jaxpr"])


def test_noise_network_orders_its_inputs_as_told():
    ours = noise_network()
    action, time, observation = jnp.array([0.1, 0.2, 0.3]), jnp.array(2.0), jnp.arange(5.0)
    params = init(ours, action, time, observation)
    kernel = params["params"]["trunk"]["layer_0"]["kernel"]
    blocks = {"action": kernel[:3], "time": kernel[3:19], "observation": kernel[19:]}
    order = ("observation", "action", "time")
    moved = jax.tree.map(lambda x: x, params)
    moved["params"]["trunk"]["layer_0"]["kernel"] = jnp.concatenate([blocks[name] for name in order])
    theirs = NoiseNetwork(3, (8, 8), TORCH, order)
    np.testing.assert_allclose(
        jax.jit(theirs.apply)(moved, action, time, observation),
        jax.jit(ours.apply)(params, action, time, observation),
        rtol=1e-5,
        atol=1e-7,
    )


def test_learnt_waves_by_hand():
    """Turns per unit of time: a quarter and a half; cosines first."""
    params = {"params": {"kernel": jnp.array([[0.25], [0.5]])}}
    features = LearntWaves(4).apply(params, jnp.array([[0, 1], [2, 4]]))
    expected = [[[1, 1, 0, 0], [0, -1, 1, 0]], [[-1, 1, 0, 0], [1, 1, 0, 0]]]
    np.testing.assert_allclose(features, expected, atol=2e-6)
    kernel = init(LearntWaves(4000), jnp.zeros(()))["params"]["kernel"]
    assert np.std(kernel) == pytest.approx(0.2, rel=0.05)


def test_residual_block_by_hand():
    """(3, 5) norms to (-1, 1); the layers make ReLU (1, 0, ...) of it, then (10, 20); dropout spares the way around."""
    block, x = ResidualBlock(nn.relu), jnp.array([3.0, 5.0])
    params = init(block, x)["params"]
    params["dense_0"] = {"kernel": jnp.zeros((2, 8)).at[0, 0].set(-1.0), "bias": jnp.zeros(8)}
    params["dense_1"] = {"kernel": jnp.zeros((8, 2)).at[0].set(jnp.array([10.0, 20.0])), "bias": jnp.array([0.0, 1.0])}
    np.testing.assert_allclose(block.apply({"params": params}, x), [13.0, 26.0], rtol=1e-5)
    # (0, 10) norms to (-1, 1) as well, (6, 0) to (1, -1): ReLU leaves nothing.
    np.testing.assert_allclose(block.apply({"params": params}, x, jnp.array([0.0, 2.0])), [13.0, 26.0], rtol=1e-5)
    np.testing.assert_allclose(block.apply({"params": params}, x, jnp.array([2.0, 0.0])), [3.0, 6.0], rtol=1e-5)


def test_residual_network_is_its_blocks_between_two_layers():
    """The activation stands in front of the last layer and not behind the first; each block has its own factor."""
    network, x = ResidualNetwork(4, 2, 3, nn.silu), jnp.array([0.3, -0.2])
    params = init(network, x)["params"]
    assert set(params) == {"input", "block_0", "block_1", "output"}
    factors = (jnp.array([0.0, 2.0, 1.0, 1.0]), jnp.array([1.0, 1.0, 0.0, 3.0]))
    hidden = x @ params["input"]["kernel"]
    for name, factor in zip(("block_0", "block_1"), factors, strict=True):
        hidden = ResidualBlock(nn.silu).apply({"params": params[name]}, hidden, factor)
    expected = nn.silu(hidden) @ params["output"]["kernel"]
    np.testing.assert_allclose(network.apply({"params": params}, x, factors=factors), expected, rtol=1e-5)


def test_condition_is_two_layers_on_the_waves():
    """No activation behind the second; the trunk sees action, observation, condition in this order."""
    network = WaveConditioned(MLP((), 1, mish, GLOROT), 4, (5, 2), mish)
    action, time, observation = jnp.array([0.1]), jnp.asarray(3), jnp.array([0.5, -0.5])
    params = init(network, action, time, observation)["params"]
    waves = LearntWaves(4).apply({"params": params["fourier"]}, time)
    condition = mish(waves @ params["cond_0"]["kernel"]) @ params["cond_1"]["kernel"]
    expected = jnp.concatenate([action, observation, condition]) @ params["trunk"]["layer_0"]["kernel"]
    np.testing.assert_allclose(network.apply({"params": params}, action, time, observation), expected, rtol=1e-5)
    many = network.apply({"params": params}, action[None].repeat(6, 0), time, observation)
    np.testing.assert_allclose(many, jnp.broadcast_to(expected, (6, 1)), rtol=1e-5)


def test_noise_network_passes_its_options_on():
    """A LayerNorm with a huge epsilon leaves its bias: hidden layers say 0, and the output its own bias."""
    network = noise_network(layer_norm=True, norm_epsilon=1e12)
    action, time, observation = jnp.array([0.1, 0.2, 0.3]), jnp.array(2.0), jnp.arange(5.0)
    params = init(network, action, time, observation)
    trunk = params["params"]["trunk"]
    assert set(trunk) == {"layer_0", "norm_0", "layer_1", "norm_1", "layer_2"}
    output = network.apply(params, action, time, observation)
    np.testing.assert_allclose(output, trunk["layer_2"]["bias"], atol=1e-5)
    plain, other = noise_network(), noise_network(time_endpoint=False)
    params = init(plain, action, time, observation)
    features = [net.apply(params, time, method="embed_time") for net in (plain, other)]
    assert float(jnp.max(jnp.abs(features[0] - features[1]))) > 1e-3


def test_noise_network_broadcasts_times_and_observations():
    network = noise_network(cos_first=True, time_hidden_dims=(32, 32), linear_first=True)
    action = jax.random.normal(jax.random.key(1), (4, 5, 3))
    observation = jax.random.normal(jax.random.key(2), (4, 1, 6))
    params, apply = init(network, action[0, 0], jnp.zeros(()), observation[0, 0]), jax.jit(network.apply)
    output = apply(params, action, jnp.asarray(3), observation)
    times = apply(params, action, jnp.full((4, 5), 3), observation)
    np.testing.assert_allclose(output, times, rtol=1e-5, atol=1e-6)
    alone = apply(params, action[2, 4], jnp.asarray(3), observation[2, 0])
    np.testing.assert_allclose(output[2, 4], alone, rtol=1e-5, atol=1e-6)


def test_gaussian_policy_bounds_its_deviation():
    policy = GaussianPolicy(2, (4,))
    params = init(policy, jnp.zeros(3))
    params["params"]["trunk"]["layer_1"]["bias"] = jnp.array([0.25, -7.0, -9.0, 3.0])
    mean, log_std = policy.apply(params, jnp.zeros(3))
    np.testing.assert_allclose(mean, [0.25, -7.0])
    np.testing.assert_allclose(log_std, [-5.0, 2.0])


def test_gaussian_policy_with_a_free_deviation():
    policy = GaussianPolicy(2, (4,), free_log_std=True)
    params = init(policy, jnp.zeros(3))
    assert not params["params"]["log_std"].any()
    params["params"]["log_std"] = jnp.array([-7.0, 1.5])
    params["params"]["trunk"]["layer_1"]["bias"] = jnp.array([0.25, -7.0])
    mean, log_std = policy.apply(params, jnp.zeros(3))
    np.testing.assert_allclose(mean, [0.25, -7.0])
    np.testing.assert_allclose(log_std, [-5.0, 1.5])


def test_gaussian_policy_with_its_deviation_on_a_learnt_line():
    policy = GaussianPolicy(2, (4,), log_std_line=(0.5, -1.0))
    params = init(policy, jnp.zeros(3))
    line = {name: value for name, value in params["params"].items() if name != "trunk"}
    assert line == {"log_std_multiplier": 0.5, "log_std_offset": -1.0}
    params["params"] |= {"log_std_multiplier": jnp.float32(2.0), "log_std_offset": jnp.float32(0.25)}
    params["params"]["trunk"]["layer_1"]["bias"] = jnp.array([0.25, -7.0, -0.5, 1.0])
    mean, log_std = policy.apply(params, jnp.zeros(3))
    np.testing.assert_allclose(mean, [0.25, -7.0])
    np.testing.assert_allclose(log_std, [-0.75, 2.0])  # 2 * 1 + 0.25 is clipped


def test_scaled_initializer_scales_the_kernel_alone():
    scaled = scaled_initializer(TORCH, 0.25)
    key, shape = jax.random.key(0), (3, 2)
    np.testing.assert_allclose(scaled.kernel(key, shape), 0.25 * TORCH.kernel(key, shape))
    np.testing.assert_array_equal(scaled.bias(key, (2,), 3), TORCH.bias(key, (2,), 3))


def test_discriminator_is_a_sigmoid_of_leaky_layers():
    discriminator = Discriminator((1,))
    params = init(discriminator, jnp.zeros(1), jnp.zeros(1))
    trunk = {
        "layer_0": {"kernel": jnp.array([[1.0], [-3.0]]), "bias": jnp.array([0.0])},
        "layer_1": {"kernel": jnp.array([[50.0]]), "bias": jnp.array([1.0])},
    }
    assert jax.tree.map(jnp.shape, params["params"]["trunk"]) == jax.tree.map(jnp.shape, trunk)
    # 1 - 3 = -2 leaks to -0.02; 1 - 0.02 * 50 = 0; sigmoid(0) = 1/2
    output = discriminator.apply({"params": {"trunk": trunk}}, jnp.ones((4, 1)), jnp.ones((4, 1)))
    np.testing.assert_allclose(output, [0.5] * 4, rtol=1e-6)


@pytest.fixture(params=[4, 5])
def flow(request):
    """A flow on ``request.param`` dimensions with weights that matter."""
    module = NICEFlow(hidden_dim=6)
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(request.param))
    params = jax.tree.map(lambda x: jnp.asarray(0.5 * generator.normal(size=x.shape), x.dtype), shapes)
    return module, params, jnp.asarray(generator.normal(size=request.param), jnp.float32)


def test_flow_knows_its_jacobian(flow):
    module, params, y = flow
    jacobian, claimed = jax.jit(jax.jacrev(lambda y: module.apply(params, y), has_aux=True))(y)
    sign, log_det = np.linalg.slogdet(jacobian)
    assert sign == 1
    np.testing.assert_allclose(claimed, log_det, atol=1e-5)


def test_flow_is_a_logistic_density_after_its_map(flow):
    module, params, y = flow
    z, log_det = (np.asarray(x, np.float64) for x in jax.jit(module.apply)(params, y))
    expected = np.sum(np.log(np.exp(-z) / (1 + np.exp(-z)) ** 2)) + log_det
    density = jax.jit(partial(module.apply, method="log_density"))(params, y)
    np.testing.assert_allclose(density, expected, rtol=1e-5)


def test_flow_without_weights_is_the_identity():
    module = NICEFlow(hidden_dim=2)
    params = jax.tree.map(jnp.zeros_like, init(module, jnp.zeros(3)))
    z, log_det = module.apply(params, jnp.array([0.0, 1.0, -1.0]))
    np.testing.assert_allclose(z, [0.0, 1.0, -1.0])
    assert log_det == 0
    density = module.apply(params, jnp.zeros((2, 3)), method="log_density")
    np.testing.assert_allclose(density, [-6 * math.log(2)] * 2, rtol=1e-6)


def test_flow_couplings_alternate_which_half_moves():
    """One-unit shift nets that add their input: the first half moves the second, then the second the first."""
    module = NICEFlow(hidden_dim=1, num_couplings=2)
    params = init(module, jnp.zeros(2))["params"]
    ones = {name: jax.tree.map(jnp.ones_like, layer) for name, layer in params.items() if name != "log_scale"}
    ones = {name: layer | {"bias": jnp.zeros(1)} for name, layer in ones.items()}
    log_scale = jnp.array([[math.log(2.0), 0.0]])
    z, log_det = module.apply({"params": ones | {"log_scale": log_scale}}, jnp.array([1.0, 2.0]))
    # second = 2 + 1 = 3, first = 1 + 3 = 4, doubled: 8; each layer's input is divided by sqrt(1 + 1e-6)
    np.testing.assert_allclose(z, [8.0, 3.0], rtol=1e-5)
    assert log_det == pytest.approx(math.log(2.0))


def test_count_params():
    assert count_params({"a": np.zeros((2, 3)), "b": {"c": np.zeros(())}}) == 7


def silu(x):
    return x / (1 + np.exp(-x))


def numbered(params):
    """The same tree with other numbers, small and all different."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(structure, [jnp.asarray(rng.normal(size=x.shape) / 3, jnp.float32) for x in leaves])


def affine(layer, *inputs):
    return np.concatenate(inputs, axis=-1) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def block_by_hand(layers, embedding, *inputs):
    hidden = silu(affine(layers["dense_0"], *inputs)) + affine(layers["time"], silu(embedding))
    skip = affine(layers["skip"], *inputs) if "skip" in layers else np.concatenate(inputs, axis=-1)
    return silu(affine(layers["dense_1"], hidden)) + skip


def test_fourier_features_by_hand():
    features = fourier_features(jnp.array([0.0, 0.25, 0.5]), jnp.array([1.0, 2.0]))
    expected = [[0, 0, 1, 1], [1, 0, 0, -1], [0, 0, -1, 1]]
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert 20 < float(jnp.std(draw_frequencies(jax.random.key(0)))) < 40


def test_conditioned_block_by_hand():
    """Linear skip where the width changes, else the identity; several inputs are concatenated."""
    embedding, x, y = np.array([0.3, -1.0]), np.array([0.5, -0.2, 1.0]), np.array([2.0])
    for width, has_skip in ((3, True), (4, False)):
        block = ConditionedBlock(width)
        params = numbered(init(block, embedding, x, y))
        assert ("skip" in params["params"]) == has_skip
        expected = block_by_hand(params["params"], embedding, x, y)
        np.testing.assert_allclose(block.apply(params, embedding, x, y), expected, rtol=1e-5)


def test_score_network_by_hand():
    """Down 5, 4; middle 4; up 5 on what the second block down put out; the head on the first one's."""
    rng = np.random.default_rng(1)
    action, features, observation = rng.normal(size=2), rng.normal(size=32), rng.normal(size=3)
    network = ScoreNetwork(2, (5, 4))
    params = numbered(init(network, action, features, observation))
    layers = params["params"]
    condition, time = silu(affine(layers["cond"], observation)), affine(layers["embed"], features)
    embedding = affine(layers["time_1"], silu(affine(layers["time_0"], condition, time)))
    first = block_by_hand(layers["down1"], embedding, action)
    second = block_by_hand(layers["down2"], embedding, first)
    middle = block_by_hand(layers["mid"], embedding, second)
    up = block_by_hand(layers["up2"], embedding, second, middle)
    assert set(layers) == {"cond", "embed", "time_0", "time_1", "down1", "down2", "mid", "up2", "out"}
    expected = affine(layers["out"], first, up)
    np.testing.assert_allclose(network.apply(params, action, features, observation), expected, rtol=1e-4, atol=1e-5)


def test_small_score_network_and_guidance_by_hand():
    rng = np.random.default_rng(2)
    action, features, observation = rng.normal(size=2), rng.normal(size=32), rng.normal(size=3)
    network = SmallScoreNetwork(2, (6, 5))
    params = numbered(init(network, action, features, observation))
    layers = params["params"]
    time = affine(layers["dense_t"], silu(affine(layers["embed"], features)))
    hidden = silu(affine(layers["block_0"], affine(layers["dense_x"], observation, action), time))
    expected = affine(layers["decoder"], hidden)
    np.testing.assert_allclose(network.apply(params, action, features, observation), expected, rtol=1e-4, atol=1e-5)
    guidance = EnergyNetwork((5,))
    params = numbered(init(guidance, action, features, observation))
    layers = params["params"]
    hidden = silu(affine(layers["trunk"]["layer_0"], action, affine(layers["embed"], features), observation))
    expected = affine(layers["trunk"]["layer_1"], hidden)[0]
    np.testing.assert_allclose(guidance.apply(params, action, features, observation), expected, rtol=1e-4)


def test_candidates_share_their_state_in_a_score_network():
    rng = np.random.default_rng(3)
    action, features, observation = rng.normal(size=(4, 3, 2)), rng.normal(size=32), rng.normal(size=(4, 3))
    network = ScoreNetwork(2, (5, 4))
    params = init(network, action[0, 0], features, observation[0])
    together = network.apply(params, action, features, observation[:, None])
    alone = network.apply(params, action[2, 1], features, observation[2])
    np.testing.assert_allclose(together[2, 1], alone, rtol=1e-5, atol=1e-6)
