"""Training that goes on online: runs play with their own policies, keep what they met, learn from that and the data.

A run's clock is its own: environment steps taken, and updates made, so that its numbers do not depend on the runs
beside it, whose episodes may be longer. All arrays of a run have the leading axis ``runs``, the data none.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.observations import ObservationTransform
from diffjax.data.sampling import offline_rows, uniform_positions
from diffjax.data.transitions import Transitions
from diffjax.envs.base import VectorSimulator
from diffjax.methods.base import Method, Metrics, View, example_batches, labelling_phase
from diffjax.training.batches import Recorded, RunData, gather_batch, seen
from diffjax.training.evaluation import Policy, episode_keys, episode_seeds, play, policy_of
from diffjax.training.program import (
    BATCH_STREAM,
    EPISODE_STREAM,
    NEVER,
    REPLAY_STREAM,
    Acting,
    Program,
    RunSetup,
    finite_metrics,
    is_finite,
    phase_key,
    update_run,
)
from diffjax.types import Batch, Spec


class Replay(NamedTuple):
    """The transitions that one run met last, as it sees them, leading axis ``capacity``; ``added`` is how many ever.

    The one that came as number ``i`` lies at ``i % capacity``. Each holds its own next observation, and its next action
    where the view asks for that, so that none depends on what lies beside it.
    """

    rows: Batch
    added: jax.Array


class Played(NamedTuple):
    """Episodes of one run, leading axes ``(episodes, horizon)``, of observations ``(episodes, horizon + 1)``.

    ``length (episodes,)`` is how many steps of each count, none of an episode that was not played; ``terminal
    (episodes,)`` whether the environment ended it.
    """

    observation: Any
    action: Any
    reward: Any
    length: Any
    terminal: Any


class Rule(NamedTuple):
    """How runs go on: what share of a minibatch is data, updates per step of an environment, episodes per turn.

    ``noise`` is the deviation of what is added to the actions of these episodes.
    """

    offline_fraction: float
    updates_per_step: float
    episodes: int
    noise: float


class OnlineState(NamedTuple):
    """State of all runs, leading axis ``runs``.

    ``updates`` are those of the main phase, offline ones too; ``taken`` are steps of the environment.
    """

    method: Any
    observation: ObservationTransform
    replay: Replay
    updates: jax.Array
    taken: jax.Array
    first_bad_step: jax.Array

    def acting(self, hyper: Any) -> Acting:
        """The runs as they act under some hyper-parameters."""
        return Acting(self.method, hyper, self.observation)


class OnlineSetup(NamedTuple):
    """What tells one run from another: how it learns, after how many updates it began, and how it acts to explore."""

    run: RunSetup
    begun: jax.Array
    exploring: Any


def unfit(method: Method[Any, Any]) -> str:
    """Why a method cannot learn from transitions as they come, in words; empty where it can."""
    view = method.view
    if view.horizon != 1:
        return "learns from windows of steps"
    if view.return_to_go:
        return "reads what its trajectories return to their ends"
    if labelling_phase(method, len(method.phases) - 1) is not None:
        return "labels its data before it learns"
    return ""


def empty_replay(capacity: int, spec: Spec, view: View) -> Replay:
    """Room for so many transitions."""
    rows, *_ = example_batches(view, spec, capacity)
    return Replay(rows, jnp.int32(0))


def held(replay: Replay) -> jax.Array:
    """How many transitions there are."""
    return jnp.minimum(replay.added, replay.rows.reward.shape[0])


def append(replay: Replay, rows: Batch, kept: jax.Array) -> Replay:
    """With those of some transitions, leading axis ``n``, that are ``kept (n,)``; the oldest give way.

    ``n`` is at most the capacity, so that no two go to one place.
    """
    capacity = replay.rows.reward.shape[0]
    chex.assert_shape(kept, (rows.reward.shape[0],))
    assert kept.shape[0] <= capacity, (kept.shape, capacity)
    number = replay.added + jnp.cumsum(kept, dtype=jnp.int32) - 1
    place = jnp.where(kept, number % capacity, capacity)  # beyond the end: dropped
    put = lambda old, new: old.at[place].set(new, mode="drop")  # noqa: E731
    return Replay(jax.tree.map(put, replay.rows, rows), replay.added + jnp.sum(kept, dtype=jnp.int32))


def transitions_of(played: Played, part: RunData, view: View) -> tuple[Batch, jax.Array]:
    """The steps of episodes as a run sees them, in order, and which are transitions: ``(episodes * horizon,)`` bool.

    Where the view asks for the next action, the last step before a time limit is none: nobody acted after it.
    """
    episodes, horizon = played.reward.shape
    time = jnp.arange(horizon)
    is_last = time == played.length[:, None] - 1
    terminal = is_last & played.terminal[:, None]
    kept = time < played.length[:, None]
    if view.next_action:
        kept &= ~is_last | terminal
    recorded = Recorded(
        played.observation[:, :-1],
        played.action,
        played.reward,
        played.observation[:, 1:],
        terminal,
        jnp.roll(played.action, -1, axis=1) if view.next_action else None,
    )
    flat = lambda leaf: leaf.reshape(episodes * horizon, *leaf.shape[2:])  # noqa: E731
    return jax.tree.map(flat, seen(recorded, part)), flat(kept)


def mix(first: jax.Array, offline: Batch, online: Batch) -> Batch:
    """The ``first`` rows of one minibatch, then those of the other from there on."""

    def mixed(data: jax.Array, own: jax.Array) -> jax.Array:
        is_first = jnp.arange(data.shape[0]) < first
        return jnp.where(is_first.reshape(-1, *[1] * (data.ndim - 1)), data, own)

    return jax.tree.map(mixed, offline, online)


def owed(state: OnlineState, setup: OnlineSetup, updates_per_step: float) -> np.ndarray:
    """How many updates each run is behind: ``floor(updates_per_step taken)`` less those it made online."""
    made = np.asarray(state.updates, np.int64) - np.asarray(setup.begun, np.int64)
    return np.floor(updates_per_step * np.asarray(state.taken, np.float64)).astype(np.int64) - made


def play_episodes(
    program: Program,
    state: OnlineState,
    setup: OnlineSetup,
    simulator: VectorSimulator,
    rule: Rule,
    playing: np.ndarray,
    stepped: Callable[[int], None] = lambda time: None,
) -> Played:
    """``rule.episodes`` episodes of each run that is ``playing (runs,)``, all at once; in host memory.

    ``simulator`` has ``runs * episodes`` environments. The episodes of a run depend on how many steps it has taken.
    """
    runs, episodes, horizon = len(playing), rule.episodes, simulator.horizon
    keys = episode_keys(setup.run.key[:runs], state.taken[:runs], episodes, stream=EPISODE_STREAM)
    policy = policy_of(keys, program, state.acting(setup.exploring))
    if rule.noise:
        policy = _noisy(policy, keys, rule.noise)
    count = runs * episodes
    found = Played(
        np.zeros((count, horizon + 1, program.spec.observation_dim), np.float32),
        np.zeros((count, horizon, program.spec.action_dim), np.float32),
        np.zeros((count, horizon), np.float32),
        np.zeros(count, np.int32),
        np.zeros(count, bool),
    )
    steps = play(policy, simulator, episode_seeds(keys), np.repeat(playing, episodes))
    for time, taken in enumerate(steps):
        found.observation[:, time : time + 2] = np.stack([taken.observation, taken.next_observation], axis=1)
        found.action[:, time], found.reward[:, time] = taken.action, taken.reward
        found.length[:] += taken.running
        found.terminal[:] |= taken.running & taken.terminated
        stepped(time + 1)
    return jax.tree.map(lambda leaf: leaf.reshape(runs, episodes, *leaf.shape[1:]), found)


def _noisy(policy: Policy, keys: jax.Array, noise: float) -> Policy:
    """The policy with Gaussian noise, within [-1, 1]."""

    def noisy(time: jax.Array, observation: np.ndarray) -> tuple[np.ndarray, jax.Array]:
        action, following = policy(time, observation)
        draws = _normal(keys.reshape(-1), time, action.shape[-1])
        return np.clip(action + noise * np.asarray(draws), -1.0, 1.0), following

    return noisy


@functools.partial(jax.jit, static_argnums=2)
def _normal(keys: jax.Array, time: jax.Array, dim: int) -> jax.Array:
    """Not what the policy draws from the same keys, which it folds with the time alone."""
    fold = lambda key: jax.random.fold_in(jax.random.fold_in(key, time), REPLAY_STREAM)  # noqa: E731
    return jax.vmap(lambda key: jax.random.normal(fold(key), (dim,)))(keys)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def keep_episodes(program: Program, state: OnlineState, setup: OnlineSetup, played: Played) -> OnlineState:
    """The state with what every run met; the old one is consumed."""

    def keep(replay: Replay, own: Played, part: RunData) -> Replay:
        return append(replay, *transitions_of(own, part, program.method.view))

    replay = jax.vmap(keep)(state.replay, played, setup.run.data)
    return state._replace(replay=replay, taken=state.taken + jnp.sum(played.length, axis=1, dtype=jnp.int32))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def learn_online(
    program: Program, state: OnlineState, due: jax.Array, fraction: jax.Array, setup: OnlineSetup, data: Transitions
) -> tuple[OnlineState, Metrics]:
    """``due (runs,)`` updates of the main phase of each run; the old state is consumed.

    Metrics come as sums with weights, ``(runs,)`` each. A run that has made its updates stays as it is while others go
    on. Its step is its own, so that a delayed update of the method is computed and left out where it is not due.
    """
    phase = len(program.method.phases) - 1

    def update(
        number: jax.Array, before: Any, step: jax.Array, replay: Replay, due: jax.Array, run: RunSetup
    ) -> tuple[Any, Metrics]:
        batches = mixed_batches(program, step, replay, fraction, run, data)
        after, metrics = update_run(program, phase, step, before, run, batches)
        is_due = number < due
        kept = jax.tree.map(lambda new, old: jnp.where(is_due, new, old), after, before)
        return kept, jax.tree.map(lambda value: jnp.where(is_due, value, jnp.zeros_like(value)), metrics)

    update_runs = jax.jit(jax.vmap(update, in_axes=(None, 0, 0, 0, 0, 0)))  # traced once for both of its uses below

    def body(number: jax.Array, carry: tuple[OnlineState, Metrics]) -> tuple[OnlineState, Metrics]:
        before, sums = carry
        after, metrics = update_runs(number, before.method, before.updates, before.replay, due, setup.run)
        new_bad = (before.first_bad_step == NEVER) & ~finite_metrics(metrics)
        state = before._replace(
            method=after,
            updates=before.updates + (number < due),
            first_bad_step=jnp.where(new_bad, before.updates, before.first_bad_step),
        )
        return state, jax.tree.map(jnp.add, sums, metrics)

    given = (state.method, state.updates, state.replay, due, setup.run)
    _, shapes = jax.eval_shape(update_runs, jnp.int32(0), *given)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    after, sums = jax.lax.fori_loop(0, jnp.max(due), body, (state, zeros))
    new_bad = (after.first_bad_step == NEVER) & ~jax.vmap(is_finite)(after.method)
    return after._replace(first_bad_step=jnp.where(new_bad, after.updates - 1, after.first_bad_step)), sums


def mixed_batches(
    program: Program, step: jax.Array, replay: Replay, fraction: jax.Array, run: RunSetup, data: Transitions
) -> tuple[Batch, ...]:
    """The minibatches of one update of one run: rows of the data and its own, both drawn with replacement."""
    view, size = program.method.view, program.method.phases[-1].batch_size(run.hyper)
    streams = (phase_key(run.key, stream, len(program.method.phases) - 1) for stream in (BATCH_STREAM, REPLAY_STREAM))
    first = offline_rows(fraction, size)

    def batch(data_key: jax.Array, own_key: jax.Array) -> Batch:
        place = uniform_positions(own_key, step, size, held(replay))
        own = jax.tree.map(lambda leaf: leaf[place], replay.rows)
        position = uniform_positions(data_key, step, size, run.data.size)
        return mix(first, gather_batch(data, run.data, position, view), own)

    return tuple(map(batch, *(jax.random.split(key, view.batches) for key in streams)))
