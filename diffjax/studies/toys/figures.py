"""The papers' toy figures as data: which methods are trained on which clouds, with which constants.

Constants are the papers' (preset ``paper``); ``quick`` takes fewer updates and smaller minibatches, networks or chains
at larger rates, and its pictures say so. What a paper leaves open is chosen here and said beside the value.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax.errors import unknown_name
from diffjax.experiment.settings import PRESETS
from diffjax.methods import dac, diffcps, diffusion_bc, dql, dtql, dtql_kl
from diffjax.methods.base import Hyper, Method, Metrics, Phase, State
from diffjax.studies.toys import FIGURES, clouds, gaussian
from diffjax.studies.toys.clouds import Problem
from diffjax.types import Batch, Spec


@dataclasses.dataclass(frozen=True)
class Arm:
    """One method with its constants, trained on every problem of a figure or on those named."""

    name: str
    method: Method[Any, Any]
    hyper: Any
    steps: int
    sampling: str = "uniform"
    problems: tuple[str, ...] = ()  # empty: all
    adapt: Callable[[Problem, Any], Any] = lambda problem, hyper: hyper
    acting: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: MappingProxyType({})
    )  # changes of hyper when sampling
    value: Callable[[Any, Any, jax.Array], jax.Array] | None = None  # (state, hyper, actions) -> contours


class Figure(NamedTuple):
    """One figure: arms against problems."""

    name: str
    title: str
    observation_dim: int
    one_step: bool  # whether a reward is the whole return
    draw_problems: Callable[[jax.Array], tuple[Problem, ...]]  # fresh data of the same clouds
    problems: tuple[Problem, ...]
    arms: tuple[Arm, ...]
    shown: int  # samples drawn into a panel
    frame: float  # half the side of a panel

    def problems_of(self, arm: Arm) -> tuple[Problem, ...]:
        """The problems an arm is trained on."""
        return tuple(problem for problem in self.problems if not arm.problems or problem.name in arm.problems)


def bandit(
    method: Method[State, Hyper], update_towards: Callable[..., tuple[State, Metrics]], reward_std: float = 0.0
) -> Method[State, Hyper]:
    """A method whose critics are regressed on the reward itself, with fresh noise in each minibatch.

    ``update_towards`` is the method's update for given targets of the critics.
    """
    (phase,) = method.phases

    def draw(key: jax.Array, spec: Spec, hyper: Any) -> tuple[Any, jax.Array]:
        draw_key, noise_key = jax.random.split(key)
        return phase.draw(draw_key, spec, hyper), jax.random.normal(noise_key, (hyper.batch_size,))

    def update(
        draws: tuple[Any, jax.Array], step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
    ) -> tuple[State, Metrics]:
        (batch,), (inner, noise) = batches, draws
        return update_towards(batch.reward + reward_std * noise, inner, step, state, hyper, batch)

    return method._replace(phases=(Phase(phase.name, update, draw),))


def _dac_value(state: dac.State, hyper: dac.Hyper, action: jax.Array) -> jax.Array:
    """Mean over the ensemble."""
    return jnp.mean(dac.q_values(state.critic.params, hyper, jnp.zeros(1), action), axis=0)


def _dac_arms(quick: bool) -> tuple[Arm, ...]:
    """DAC, bandits.py; ``x_0`` is clipped only inside the chain of denoised guidance, not when sampling."""
    method = bandit(dac.METHOD, dac.update_towards, reward_std=0.5)
    hyper = dac.Hyper(
        eta_lr=0.01,
        bc_threshold=1.3,
        actor_lr=1e-3,
        critic_lr=1e-3,
        ema_start=11,
        num_critics=5,
        target_samples=1,  # published: 10, but a bandit has no next action
        candidates=1,
        diffusion_steps=50,
        hidden_dims=(64, 64, 64),
        batch_size=128,
    )
    steps = 3_000 if quick else 20_000
    return tuple(
        Arm(
            guidance,
            method,
            dataclasses.replace(hyper, guidance=guidance),
            steps,
            sampling="shuffled",
            acting={"max_action": float("inf")},
            value=_dac_value if guidance == "soft" else None,
        )
        for guidance in ("soft", "hard", "denoised")
    )


def _dql_arms(quick: bool) -> tuple[Arm, ...]:
    """Diffusion-QL, toy_experiments; the weight of TD3+BC's Q term is not known there and taken as Diffusion-QL's."""
    steps, rate = (6_000, 1e-3) if quick else (100_000, 3e-4)
    common: dict[str, Any] = {"actor_lr": rate, "batch_size": 100, "hidden_dims": (128, 128, 128)}
    diffusion = common | ({"diffusion_steps": 20} if quick else {"diffusion_steps": 50, "time_dim": 4})
    single = gaussian.Hyper(critic_lr=rate, **common)
    diffusion_ql = dql.Hyper(critic_lr=rate, eta=2.5, candidates=1, **diffusion)
    return (
        Arm("Gaussian BC", gaussian.METHOD, single, steps),
        Arm("diffusion BC", diffusion_bc.METHOD, diffusion_bc.Hyper(**diffusion), steps),
        Arm("Gaussian + Q (TD3+BC)", gaussian.METHOD, dataclasses.replace(single, eta=2.5), steps),
        Arm("Diffusion-QL", bandit(dql.METHOD, dql.update_towards), diffusion_ql, steps),
    )


def _largest_action(problem: Problem, hyper: Any) -> Any:
    return dataclasses.replace(hyper, max_action=float(abs(problem.action).max()))


def _diffcps_arms(quick: bool) -> tuple[Arm, ...]:
    """DiffCPS, section 3.1; its program is not published.

    Chosen: the networks, batch and rates of its D4RL runs, ``T`` 5 (those runs') and 15 (one of the paper's),
    ``kappa`` 0.05, the bound of ``x_0`` at the data's largest coordinate.
    """
    steps, width, rate = (5_000, 128, 1e-3) if quick else (20_000, 256, 3e-4)
    common: dict[str, Any] = {"actor_lr": rate, "critic_lr": rate, "hidden_dims": (width,) * 3}
    arms = [
        Arm(
            "Gaussian AWR",
            gaussian.METHOD,
            gaussian.Hyper(temperature=1.0, policy_hidden_dims=(width, width), **common),
            steps,
        )
    ]
    for diffusion_steps in (5, 15):
        more = common | {"diffusion_steps": diffusion_steps, "candidates": 1}
        ql, cps = bandit(dql.METHOD, dql.update_towards), bandit(diffcps.METHOD, diffcps.update_towards)
        arms += [
            Arm(f"Diffusion-QL, T={diffusion_steps}", ql, dql.Hyper(**more), steps, adapt=_largest_action),
            Arm(f"DiffCPS, T={diffusion_steps}", cps, diffcps.Hyper(**more), steps, adapt=_largest_action),
        ]
    return tuple(arms)


_DTQL_Q_WEIGHTS = MappingProxyType({"swiss-far": 5.0})  # problem -> weight of Q; 1 elsewhere


def _dtql_scales(problem: Problem, hyper: Any) -> Any:
    """The action bound, and the problem's weight of Q: the same loss divided by it (no NLL term where it is not 1)."""
    weight = _DTQL_Q_WEIGHTS.get(problem.name, 1.0)
    return dataclasses.replace(_largest_action(problem, hyper), alpha=hyper.alpha / weight)


def _dtql_arms(quick: bool) -> tuple[Arm, ...]:
    """DTQL, toy_tasks; the minibatch is all the data.

    Chosen: no pretraining (with it the policy, four numbers for the only state, widens before it leaves the middle, and
    ends on the square's edge; of the KL runs it is known that they have none); all KL runs take 3,500 updates (which
    were shorter is not known); the KL runs' diffusion models and generator learn at a tenth of the published rate,
    3e-3, at which they meet non-finite numbers here within 600 updates.
    """
    common: dict[str, Any] = {
        "alpha": 1.0,
        "expectile": 0.95,
        "actor_lr": 3e-3,
        "critic_lr": 3e-3,
        "clip_denoised": False,
        "candidates": 1,
        "behavior_hidden_dims": (128, 128, 128),
        "time_dim": 4,
        "hidden_dims": (64, 64, 64) if quick else (256, 256, 256),
        "batch_size": 10_000,
    }
    with_nll = ("gaussians-far", "gaussians-hard", "gaussians-near")
    trust = Arm("trust region", dtql.METHOD, dtql.Hyper(**common), 3_500, sampling="shuffled", adapt=_dtql_scales)
    nll = dataclasses.replace(
        trust, name="trust region + NLL", hyper=dtql.Hyper(gamma_nll=0.005, **common), problems=with_nll
    )
    kl = Arm(
        "KL distillation",
        dtql_kl.METHOD,
        dtql_kl.Hyper(**common | {"actor_lr": 3e-4} | ({"batch_size": 256} if quick else {})),
        2_000 if quick else 3_500,
        sampling="shuffled",
        adapt=_dtql_scales,
        acting={"max_action": float("inf")},
    )
    return (trust, kl) if quick else (trust, nll, kl)


class _Recipe(NamedTuple):
    title: str
    observation_dim: int
    one_step: bool
    draw_problems: Callable[[jax.Array], tuple[Problem, ...]]
    arms: Callable[[bool], tuple[Arm, ...]]
    shown: int
    frame: float


_RECIPES = {
    "dac": _Recipe("DAC: soft, hard and denoised guidance", 1, True, clouds.dac_problems, _dac_arms, 100, 1.5),
    "dql": _Recipe("Diffusion-QL: four corners", 2, True, clouds.four_corners, _dql_arms, 1000, 2.5),
    "diffcps": _Recipe("DiffCPS: noisy ring of constant reward", 1, True, clouds.noisy_ring, _diffcps_arms, 1000, 1.6),
    "dtql": _Recipe(
        "DTQL: trust region against KL distillation", 1, False, clouds.dtql_problems, _dtql_arms, 1000, 20.0
    ),
}


def make_figure(name: str, preset: str, key: jax.Array, steps: int | None = None) -> Figure:
    """A figure with its data drawn; ``steps`` replaces the preset's number of updates.

    Raises:
      UserError: for an unknown figure or preset.
    """
    if name not in _RECIPES:
        raise unknown_name("figure", name, FIGURES)
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    recipe = _RECIPES[name]
    arms = recipe.arms(preset == "quick")
    if steps is not None:
        arms = tuple(dataclasses.replace(arm, steps=steps) for arm in arms)
    return Figure(
        name=name,
        title=recipe.title,
        observation_dim=recipe.observation_dim,
        one_step=recipe.one_step,
        draw_problems=recipe.draw_problems,
        problems=recipe.draw_problems(key),
        arms=arms,
        shown=recipe.shown,
        frame=recipe.frame,
    )
