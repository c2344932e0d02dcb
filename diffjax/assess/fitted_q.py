"""Fitted Q evaluation: what a policy is worth by recorded trajectories alone, without a simulator.

A Q function is fitted to ``Q(s, a) = r + discount * not_done * Q(s', a')``, where ``a'`` is the policy's own action at
``s'``, on one part of the trajectories; the estimate is its mean at the first observations of the others, each with the
policy's action there (Le, Voloshin, Yue 2019; the form of Paine et al. 2020).

What it cannot do. It is a discounted value in the data's rewards, no score. Where the policy's actions leave the data,
the Q function extrapolates, and mostly upwards; a policy that exploits its own critic looks good to this one as well.
Trajectories that the policy was trained on flatter it: give others with ``--dataset`` where there are any. Estimates
rank policies of one data set, and the more reliably the nearer these stay to the data; the error at held-out
transitions says how well the Q function fits, not how true it is.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.assess.episodes import Plan, Played
from diffjax.data.actions import fit_actions
from diffjax.data.load import load_dataset
from diffjax.data.transitions import Dataset, has_trajectories, next_observations
from diffjax.errors import UserError
from diffjax.files import csv_text, writable, write_text
from diffjax.losses import td_target
from diffjax.methods.base import Method, Scalars
from diffjax.nn.learners import Learner, copies, learn, learner, polyak
from diffjax.nn.networks import MLP, TORCH, Params
from diffjax.numerics import check_platform, pinned, random_key
from diffjax.policy import act_compiled
from diffjax.training.program import Acting
from diffjax.training.progress import Progress
from diffjax.types import ActionBounds, Spec
from diffjax.words import count

FILE = "fitted_q.csv"
HIDDEN_DIMS, BATCH, RATE, TAU = (256, 256), 256, 3e-4, 0.05
CHUNK = 500  # updates between two signs of progress
ROWS_AT_ONCE = 4096  # observations at which a policy acts at once


@dataclass(frozen=True)
class Settings:
    """How policies are judged; ``dataset`` None: the data that they were trained on."""

    dataset: str | None = None
    discount: float = 0.99
    steps: int = 20_000
    held_out: float = 0.2  # share of the trajectories
    transitions: int = 200_000  # at most, of the part that is fitted; whole trajectories are left out
    seed: int = 0


class Estimate(NamedTuple):
    """The judgement of one run at one step; a line of ``fitted_q.csv``.

    ``value`` is the mean over the held-out trajectories, ``standard_error`` that of the mean; ``td_error`` the root
    mean squared temporal difference at held-out transitions; ``data_value`` the mean discounted return of these
    trajectories as recorded.
    """

    method: str
    variant: str
    task: str
    dataset: str
    dataset_fingerprint: str
    seed: int
    setting: str
    step: int
    value: float
    standard_error: float
    td_error: float
    data_value: float
    discount: float
    fit_steps: int
    trajectories: int
    held_out: int


class Rows(NamedTuple):
    """Transitions, leading axis ``rows``; observations as the environment gives them."""

    observation: Any
    action: Any
    reward: Any
    next_observation: Any
    not_done: Any


class Split(NamedTuple):
    """Transitions to fit, those held out, the first observations of held-out trajectories and their returns."""

    fitted: Rows
    held_out: Rows
    start: np.ndarray
    returns: np.ndarray
    trajectories: int


def split(dataset: Dataset, settings: Settings) -> Split:
    """Trajectories at random into two parts.

    Raises:
      UserError: there are no trajectories, or too few.
    """
    transitions = dataset.transitions
    if not has_trajectories(transitions):
        raise UserError(f"{dataset.source}: its rows are in no order, and trajectories are needed to judge by")
    rng = np.random.default_rng(settings.seed)
    order = rng.permutation(len(dataset.episode_rows))
    count = max(1, round(settings.held_out * len(order)))
    if len(order) < 2 or count == len(order):
        raise UserError(f"{dataset.source}: holds {len(order)} trajectories; at least two are needed, one to hold out")
    begins = np.zeros(len(transitions.reward) + 1, np.int64)
    begins[np.asarray(transitions.row) + 1] = 1
    so_far = np.cumsum(begins)  # transitions before a row
    sizes = so_far[dataset.episode_rows[:, 1]] - so_far[dataset.episode_rows[:, 0]]
    kept = order[count:][np.cumsum(sizes[order[count:]]) <= settings.transitions]
    kept = order[count : count + 1] if not kept.size else kept
    reward = np.asarray(transitions.reward, np.float64)
    held = dataset.episode_rows[order[:count]]
    returns = [np.sum(reward[first:last] * settings.discount ** np.arange(last - first)) for first, last in held]
    start = np.asarray(transitions.observation)[held[:, 0]]
    fitted, held_out = (_rows(dataset, dataset.episode_rows[chosen]) for chosen in (kept, order[:count]))
    return Split(fitted, held_out, start, np.array(returns), len(kept))


def _rows(dataset: Dataset, episodes: np.ndarray) -> Rows:
    transitions = dataset.transitions
    inside = np.zeros(len(transitions.reward), bool)
    for first, last in episodes:
        inside[first:last] = True
    row = np.asarray(transitions.row)
    row = row[inside[row]]
    return Rows(
        np.asarray(transitions.observation)[row],
        np.asarray(transitions.action)[row],
        np.asarray(transitions.reward)[row],
        np.asarray(next_observations(transitions, row)),
        1.0 - np.asarray(transitions.terminal)[row].astype(np.float32),
    )


class Scaling(NamedTuple):
    """What the Q function sees: standardized observations, and values divided by ``value``, within bounds."""

    center: np.ndarray
    scale: np.ndarray
    value: float
    low: float
    high: float


def scaling(rows: Rows, discount: float) -> Scaling:
    """Of the transitions to fit. A value lies within what the smallest and the largest reward give for ever."""
    horizon = 1.0 / (1.0 - discount)
    low, high = min(float(rows.reward.min()), 0.0) * horizon, max(float(rows.reward.max()), 0.0) * horizon
    value = max(abs(low), abs(high)) or 1.0
    center, scale = rows.observation.mean(axis=0), rows.observation.std(axis=0) + 1e-3
    return Scaling(center, scale, value, low / value, high / value)


def q_value(params: Params, observation: Any, action: Any) -> jax.Array:
    """``(...,)`` for observations as the Q function sees them."""
    network = MLP(HIDDEN_DIMS, 1, nn.relu, TORCH)
    return network.apply(params, jnp.concatenate([observation, action], axis=-1))[..., 0]


def q_loss(params: Params, target: jax.Array, observation: jax.Array, action: jax.Array) -> tuple[jax.Array, Scalars]:
    """Mean squared error."""
    loss = jnp.mean((q_value(params, observation, action) - target) ** 2)
    return loss, {"q/loss": loss}


class State(NamedTuple):
    """A Q function of every policy and its target, leading axis ``policies``."""

    learner: Learner
    target: Params


@functools.partial(jax.jit, donate_argnums=0)
def _fit(
    state: State, key: jax.Array, bounds: jax.Array, rows: Rows, next_action: jax.Array, discount: jax.Array
) -> State:
    """Updates ``bounds[0] .. bounds[1] - 1``; all policies see the same minibatches."""

    def update(learned: Learner, target: Params, batch: Rows, following: jax.Array) -> tuple[Learner, Params]:
        next_value = q_value(target, batch.next_observation, following)
        goal = jnp.clip(td_target(batch.reward, discount, batch.not_done, next_value), bounds[2], bounds[3])
        learned, _ = learn(q_loss, learned, RATE, goal, batch.observation, batch.action, name="q")
        return learned, polyak(target, learned.params, TAU)

    def body(step: jax.Array, state: State) -> State:
        chosen = jax.random.randint(jax.random.fold_in(key, step), (BATCH,), 0, rows.reward.shape[0])
        batch = jax.tree.map(lambda leaf: leaf[chosen], rows)
        over_policies = jax.vmap(update, in_axes=(0, 0, None, 0))
        return State(*over_policies(state.learner, state.target, batch, next_action[:, chosen]))

    return jax.lax.fori_loop(bounds[0].astype(int), bounds[1].astype(int), body, state)


def actions(
    key: jax.Array, method: Method[Any, Any], spec: Spec, acting: Acting, observation: np.ndarray
) -> np.ndarray:
    """A policy's action at every row, ``(rows, action_dim)``, one draw each; in parts, the last one filled up."""
    found = []
    for number, first in enumerate(range(0, len(observation), ROWS_AT_ONCE)):
        part = observation[first : first + ROWS_AT_ONCE]
        size = min(ROWS_AT_ONCE, len(observation))
        filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        found.append(
            np.asarray(act_compiled(jax.random.fold_in(key, number), method, spec, acting, filled))[: len(part)]
        )
    return np.concatenate(found)


class Data(NamedTuple):
    """What runs are judged by; the same for all that learned the same actions of the same source."""

    source: str
    label: str | None
    actions: str
    bounds: ActionBounds | None


class Candidate(NamedTuple):
    """A run at a step."""

    planned: Plan
    played: Played
    step: int


def data_of(planned: Plan, settings: Settings) -> Data:
    """The data that the settings name, or the runs' own.

    Raises:
      UserError: the runs do not say where theirs are.
    """
    record = planned.config.dataset
    if not (source := settings.dataset or record.source):
        raise UserError(f"{planned.stored.folder} does not say where its data are; name some with --dataset")
    label = None if settings.dataset else record.label
    return Data(source, label, str(planned.config.protocol.get("actions", "")), record.action_bounds)


def read_data(data: Data, planned: Plan, progress: Progress) -> Dataset:
    """The data with actions as the runs learned them.

    Raises:
      UserError: they cannot be read, or are of another robot.
    """
    spec, horizon = planned.stored.spec, planned.stored.task.horizon or None
    dataset = load_dataset(data.source, spec, data.label, horizon=horizon, any_actions=True, report=progress.note)
    return fit_actions(dataset, data.actions, data.bounds)


@pinned()
def judge(plans: Sequence[Plan], settings: Settings, progress: Progress) -> list[Estimate]:
    """The estimate of every run at every step that is planned; those of the same data are fitted side by side.

    Raises:
      UserError: the data cannot be read, or hold too few trajectories.
    """
    check_platform()
    groups: dict[Data, list[Candidate]] = {}
    for planned in plans:
        for steps in planned.steps:
            for one, step in zip(planned.played, steps, strict=True):
                groups.setdefault(data_of(planned, settings), []).append(Candidate(planned, one, step))
    estimates: list[Estimate] = []
    for data, candidates in groups.items():
        with jax.default_matmul_precision("highest"):
            estimates += _judge(read_data(data, candidates[0].planned, progress), candidates, settings, progress)
    return estimates


def _judge(dataset: Dataset, candidates: Sequence[Candidate], settings: Settings, progress: Progress) -> list[Estimate]:
    """The estimates of policies by one data set."""
    parts = split(dataset, settings)
    found = scaling(parts.fitted, settings.discount)
    rows = [parts.fitted.next_observation, parts.held_out.next_observation, parts.start]
    act_key, fit_key, init_key = jax.random.split(random_key(settings.seed), 3)
    progress.begin("actions of the policies", 1, len(candidates), 0)
    chosen: list[list[np.ndarray]] = []
    for planned, one, step in candidates:
        stored = planned.stored
        acting = stored.acting(one.trained, step)._replace(hyper=one.run.hyper)
        acting = jax.tree.map(jnp.asarray, acting)
        keys = jax.random.split(act_key, len(rows))
        chosen.append(
            [actions(key, stored.method, stored.spec, acting, each) for key, each in zip(keys, rows, strict=True)]
        )
        progress.advance(1)
    state = _fitted(init_key, fit_key, parts, [each[0] for each in chosen], settings, found, progress)
    progress.end()
    params = jax.device_get(state.learner.params)
    estimates = []
    for index, (candidate, (_, held_action, first_action)) in enumerate(zip(candidates, chosen, strict=True)):
        own = jax.tree.map(lambda leaf, place=index: leaf[place], params)
        value = found.value * np.asarray(q_value(own, _seen(parts.start, found), first_action))
        error = found.value * _td_errors(own, parts.held_out, held_action, settings.discount, found)
        config, run = candidate.planned.config, candidate.played.run
        estimates.append(
            Estimate(
                method=config.method,
                variant=config.variant,
                task=config.task,
                dataset=dataset.label,
                dataset_fingerprint=dataset.fingerprint,
                seed=run.seed,
                setting=run.setting,
                step=candidate.step,
                value=float(value.mean()),
                standard_error=float(value.std(ddof=1) / np.sqrt(len(value))) if len(value) > 1 else float("nan"),
                td_error=float(np.sqrt(np.mean(error**2))),
                data_value=float(parts.returns.mean()),
                discount=settings.discount,
                fit_steps=settings.steps,
                trajectories=parts.trajectories,
                held_out=len(parts.returns),
            )
        )
    return estimates


def _seen(observation: np.ndarray, found: Scaling) -> np.ndarray:
    return (observation - found.center) / found.scale


def _scaled(rows: Rows, found: Scaling) -> Rows:
    return rows._replace(
        observation=_seen(rows.observation, found),
        next_observation=_seen(rows.next_observation, found),
        reward=rows.reward / np.float32(found.value),
    )


def _td_errors(params: Params, rows: Rows, action: np.ndarray, discount: float, found: Scaling) -> np.ndarray:
    rows = _scaled(rows, found)
    next_value = q_value(params, rows.next_observation, action)
    goal = np.clip(td_target(rows.reward, discount, rows.not_done, next_value), found.low, found.high)
    return np.asarray(goal - q_value(params, rows.observation, rows.action))


def _fitted(
    init_key: jax.Array,
    fit_key: jax.Array,
    parts: Split,
    next_actions: Sequence[np.ndarray],
    settings: Settings,
    found: Scaling,
    progress: Progress,
) -> State:
    rows = jax.tree.map(jnp.asarray, _scaled(parts.fitted, found))
    network = MLP(HIDDEN_DIMS, 1, nn.relu, TORCH)
    example = jnp.zeros(rows.observation.shape[1] + rows.action.shape[1])
    params = network.init(init_key, example)  # of all policies the same
    stacked = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(next_actions), axis=0), params)
    state = State(jax.vmap(learner)(stacked), copies(stacked))
    next_action = jnp.asarray(np.stack(next_actions))
    progress.begin("fitted Q evaluation", len(next_actions), settings.steps, 0)
    for first in range(0, settings.steps, CHUNK):
        last = min(first + CHUNK, settings.steps)
        bounds = jnp.array([first, last, found.low, found.high], jnp.float32)
        state = _fit(state, fit_key, bounds, rows, next_action, jnp.float32(settings.discount))
        jax.block_until_ready(state)
        progress.advance(last - first)
    return state


def write(estimates: Sequence[Estimate], folder: Path) -> None:
    """``fitted_q.csv`` in a folder, whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, csv_text([Estimate._fields, *estimates]))


def check_out(folder: Path) -> None:
    """That :func:`write` will not overwrite anything.

    Raises:
      UserError: the file is there, or the folder is none.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --out must name a folder")
    if (folder / FILE).exists():
        raise UserError(f"{folder / FILE} is there already; choose another --out")


def lines(estimates: Sequence[Estimate]) -> list[str]:
    """The estimates as a table, the best first, and what it is."""
    first = estimates[0]
    rows = [("value", "± s.e.", "held-out TD error", "method", "seed", "setting", "step")]
    for one in sorted(estimates, key=lambda one: -one.value):
        numbers = f"{one.value:.4g}", f"{one.standard_error:.2g}", f"{one.td_error:.3g}"
        rows.append((*numbers, one.method, str(one.seed), one.setting or "-", str(one.step)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return [
        *shown,
        f"Fitted Q evaluation on {first.dataset} #{first.dataset_fingerprint[:8]}: discounted by {first.discount:g}, "
        f"{count(first.fit_steps, 'update')} on {count(first.trajectories, 'trajectory', 'trajectories')}, at the "
        f"start of {count(first.held_out, 'other')}, whose recorded return is {first.data_value:.4g}. It ranks "
        "policies of one data set and is no score.",
    ]
