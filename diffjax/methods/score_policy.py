"""What QGPO and SfBC share: a score network that clones behaviour, sampled by DPM-Solver, and actions of its own.

The behaviour model is trained in a phase of its own and never again. Then actions are drawn from it for every state of
the data, once: the *support actions*, over which both methods take their expectations.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion.dpm_solver import Form, Plan, Solution, dpm_solver, dpm_solver_plan, heun_plan
from diffjax.diffusion.objectives import TimeDraws, draw_times, score_matching
from diffjax.diffusion.schedules import linear_vp
from diffjax.methods.base import ActingCost, Metrics, Phase, Scalars, sampled_by, static, traced, weigh
from diffjax.nn.learners import learn
from diffjax.nn.networks import Params
from diffjax.nn.score import FEATURES, ScoreNetwork, fourier_features
from diffjax.types import Batch, Spec

SCHEDULE = linear_vp()
TIME_END = 1e-3  # where the solver stops, which is returned as the sample
SAMPLERS = ("dpm", "euler", "heun")  # dpm is that of the method, with which the support actions are made
STATES_AT_ONCE = 1024  # whose support actions are sampled together


@flax.struct.dataclass
class ScoreHyper:
    """Hyper-parameters that both methods have; plain fields are traced, ``static`` ones are not."""

    discount: float = traced(0.99, at_least=0.0, at_most=1.0)
    actor_lr: float = traced(1e-4, above=0.0)  # of the behaviour model
    time_min: float = traced(1e-3, above=0.0, below=1.0)  # least time of its training
    max_action: float = traced(1.0, above=0.0)
    support_actions: int = static(16, at_least=1)  # of the behaviour model, per state of the data
    support_steps: int = static(15, at_least=1)  # evaluations of the behaviour model per support action
    sampler: str = static("dpm", SAMPLERS, acting=True)
    sampler_steps: int = static(15, at_least=1, acting=True)  # of dpm evaluations
    behavior_hidden_dims: tuple[int, ...] = static((512, 256, 128), at_least=1)
    behavior_batch_size: int = static(4096, at_least=1)


def network(hyper: ScoreHyper, action_dim: int) -> nn.Module:
    """The behaviour model, whose output is minus the noise."""
    return ScoreNetwork(action_dim, hyper.behavior_hidden_dims)


def solver_grid(intervals: int) -> np.ndarray:
    """Falling times between which a solver evaluates: they are linear."""
    return np.linspace(1.0, TIME_END, intervals + 1)


def solver_plan(orders: tuple[int, ...], form: Form) -> Plan:
    """The constants of DPM-Solver."""
    return dpm_solver_plan(SCHEDULE, solver_grid(sum(orders)), orders, form)


def acting_plan(hyper: ScoreHyper, published: Callable[[int], Plan]) -> Plan:
    """The solver of actions, on the same grid; ``published`` makes the method's own of so many evaluations."""
    steps = hyper.sampler_steps
    if hyper.sampler == "euler":
        return solver_plan((1,) * steps, "noise")
    return heun_plan(SCHEDULE, solver_grid(steps)) if hyper.sampler == "heun" else published(steps)


def acting_cost(hyper: ScoreHyper, candidates: int, rule: str) -> ActingCost:
    """The cost of a decision by ``rule``, which is said with the sampler where that is not the method's own."""
    steps = hyper.sampler_steps
    if hyper.sampler != "dpm":
        rule = sampled_by(rule, hyper.sampler, steps)
    return ActingCost(candidates, 2 * steps - 1 if hyper.sampler == "heun" else steps, rule)


def init_behavior(key: jax.Array, module: nn.Module, spec: Spec) -> Params:
    """Fresh parameters of a network of noisy action, time features and observation."""
    observation, action = spec.example()
    return module.init(key, action, jnp.zeros(FEATURES), observation)


def predicted_noise(
    behavior: Params,
    frequency: jax.Array,
    module: nn.Module,
    action: jax.Array,
    time: jax.Array,
    observation: jax.Array,
) -> jax.Array:
    """``epsilon(a_t, t, s)``, like ``action``; ``time`` and ``observation`` broadcast against its leading axes."""
    return -module.apply(behavior, action, fourier_features(time, frequency), observation)


def behavior_loss(
    behavior: Params, frequency: jax.Array, module: nn.Module, draws: TimeDraws, hyper: ScoreHyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``mean sum_d (epsilon(a_t, t, s) - noise)^2``."""
    predict = lambda x, time: predicted_noise(behavior, frequency, module, x, time, batch.observation)  # noqa: E731
    loss = jnp.mean(score_matching(predict, SCHEDULE, batch.action, draws, hyper.time_min))
    return loss, {"behavior/loss": loss}


def draw_behavior(key: jax.Array, spec: Spec, hyper: ScoreHyper) -> TimeDraws:
    """Random numbers of one update of the behaviour model."""
    return draw_times(key, (hyper.behavior_batch_size, spec.action_dim))


def behavior_phase(module_of: Any = network) -> Phase[Any, Any]:
    """The phase that trains the behaviour model of a state with ``behavior`` and ``frequency``; all else stays."""

    def update(
        draws: TimeDraws, step: jax.Array, state: Any, hyper: ScoreHyper, batches: tuple[Batch, ...]
    ) -> tuple[Any, Metrics]:
        (batch,) = batches
        module = module_of(hyper, batch.action.shape[-1])
        given = (state.frequency, module, draws, hyper, batch)
        behavior, metrics = learn(behavior_loss, state.behavior, hyper.actor_lr, *given, name="behavior")
        return state._replace(behavior=behavior), weigh(metrics)

    return Phase("behavior", update, draw_behavior, batch_size=lambda hyper: hyper.behavior_batch_size)


def behavior_actions(
    behavior: Params, frequency: jax.Array, module: nn.Module, plan: Plan, start: jax.Array, observation: jax.Array
) -> Solution:
    """Actions like ``start``, standard normal noise, whose leading axes ``observation`` broadcasts against."""
    return dpm_solver(lambda x, t: predicted_noise(behavior, frequency, module, x, t, observation), plan, start)


def bounded(action: jax.Array, hyper: ScoreHyper) -> jax.Array:
    """The action within its bounds, which the solver does not keep; 0 where that left the numbers of float32."""
    return jnp.clip(jnp.nan_to_num(action), -hyper.max_action, hyper.max_action)


def support_actions(
    behavior: Params, frequency: jax.Array, module: nn.Module, plan: Plan, start: jax.Array, observation: jax.Array
) -> jax.Array:
    """Actions ``(rows, samples, action_dim)`` of the behaviour model at ``observation (rows, observation_dim)``.

    ``start`` is standard normal noise of the same shape. Some states at a time: each evaluation of the network takes
    many times the memory of its result.
    """

    def at_state(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        return behavior_actions(behavior, frequency, module, plan, *row).sample

    return jax.lax.map(at_state, (start, observation), batch_size=STATES_AT_ONCE)
