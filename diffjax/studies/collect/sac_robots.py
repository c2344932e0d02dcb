"""Soft actor-critic on a robot in its native simulator: a snapshot of the policy every so often, kept with its score.

Learning collapses now and then, so what a policy is good for is decided by its evaluated return, never by its age.
Every random number is a function of (seed, step), and all episodes end at a snapshot: learning that was stopped and
goes on from the last snapshot ends bitwise where uninterrupted learning ends.
"""

import csv
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import losses
from diffjax.clock import duration
from diffjax.envs.base import VectorSimulator
from diffjax.errors import UserError
from diffjax.files import whole_file
from diffjax.numerics import random_key
from diffjax.studies.collect import sac
from diffjax.studies.collect.policies import Policy, act, save_policy
from diffjax.studies.collect.recipe import Progress
from diffjax.studies.collect.robots import play_round
from diffjax.training.checkpoints import Checkpoints

Simulators = Callable[[int], VectorSimulator]
"""Number of environments -> simulator."""

NUM_ENVS = 5  # robots that take turns, each followed by one update
HYPER = sac.Hyper(width=128, batch_size=128, warmup_steps=5_000, lr=3e-4, discount=0.99, tau=0.005)
SNAPSHOT_STEPS = 10_000
EPISODES = 10  # per snapshot, of the mean action and of the sampled one each
SCORES = ("step", "mean_action_return", "return", "return_std", "length")
INIT_STREAM, UPDATE_STREAM, ACTION_STREAM, EVALUATION_STREAM = range(4)


class State(NamedTuple):
    """What goes on from one snapshot to the next; arrays only."""

    learner: sac.Learner
    replay: sac.History


class Score(NamedTuple):
    """Evaluated returns of a snapshot: of its mean action, and of sampled actions with deviation and length."""

    step: int
    mean_action_return: float
    return_: float
    return_std: float
    length: float


@partial(jax.jit, static_argnames=("hyper", "learning"), donate_argnums=(1, 2))
def _advance(
    key: jax.Array,
    learner: sac.Learner,
    replay: sac.History,
    rows: sac.History,
    start: jax.Array,
    observation: jax.Array,
    *,
    hyper: sac.Hyper,
    learning: bool,
) -> tuple[sac.Learner, sac.History, jax.Array]:
    """Stores the newest ``rows`` as rows ``start ..`` of the replay, makes as many updates, and acts."""
    count, action_dim = rows.action.shape
    replay = jax.tree.map(lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, start, 0), replay, rows)
    update_key = jax.random.fold_in(key, UPDATE_STREAM)
    action_key = jax.random.fold_in(jax.random.fold_in(key, ACTION_STREAM), start)
    if not learning:
        return learner, replay, jax.random.uniform(action_key, (count, action_dim), minval=-1.0, maxval=1.0)

    def update(index: jax.Array, learner: sac.Learner) -> sac.Learner:
        row_key = jax.random.fold_in(update_key, start + index)
        return sac.learn(row_key, hyper, learner, replay, start + count)

    learner = jax.lax.fori_loop(0, count, update, learner)
    noise = jax.random.normal(action_key, (count, action_dim))
    action, _ = losses.squashed_normal(*sac.policy(learner.actor, observation, hyper.width, action_dim), noise)
    return learner, replay, action


def evaluate(key: jax.Array, simulator: VectorSimulator, actor: sac.Params, step: int) -> Score:
    """Returns over :data:`EPISODES` episodes of the mean action and as many of sampled ones, side by side."""
    temperature = (np.arange(simulator.num_envs) >= EPISODES).astype(np.float32)
    episodes = play_round(key, simulator, lambda key, seen: np.asarray(act(key, actor, seen, temperature)))
    returns = np.array([episode.reward.sum(dtype=np.float64) for episode in episodes])
    lengths = np.array([len(episode.reward) for episode in episodes[EPISODES:]])
    drawn = returns[EPISODES:]
    return Score(step, returns[:EPISODES].mean(), drawn.mean(), drawn.std(ddof=1), lengths.mean())


class _Robots:
    """:data:`NUM_ENVS` robots that begin anew one by one."""

    def __init__(self, simulators: Simulators, seed: int) -> None:
        self._robots = [simulators(1) for _ in range(NUM_ENVS)]
        self._seed = seed

    def reset(self, step: int, which: np.ndarray, observation: np.ndarray) -> np.ndarray:
        """Begins episodes; their randomness is a function of (seed, step, robot)."""
        observation = observation.copy()
        for index in np.flatnonzero(which):
            seeds = np.random.SeedSequence([self._seed, step, int(index)]).generate_state(1)
            observation[index] = self._robots[index].reset(seeds)[0]
        return observation

    def step(self, observation: np.ndarray, action: np.ndarray) -> sac.History:
        """One step of each, ``(NUM_ENVS, ...)``."""
        outcomes = [robot.step(action[index : index + 1]) for index, robot in enumerate(self._robots)]
        following, reward, terminated, truncated = (np.concatenate(parts) for parts in zip(*outcomes, strict=True))
        return sac.History(observation, action, reward.astype(np.float32), following, terminated, truncated)

    def close(self) -> None:
        for robot in self._robots:
            robot.close()


def learn(
    simulators: Simulators,
    env_id: str,
    seed: int,
    steps: int,
    out: Path,
    progress: Progress,
    hyper: sac.Hyper = HYPER,
    snapshot_steps: int = SNAPSHOT_STEPS,
    about: dict[str, Any] | None = None,
) -> None:
    """Learns for ``steps`` environment steps into ``out``; goes on where it stopped.

    All of ``steps``, ``snapshot_steps`` and ``hyper.warmup_steps`` are multiples of :data:`NUM_ENVS`.

    Writes ``out/policies/STEP.npz``, ``out/scores.csv`` and ``out/checkpoints``.

    Raises:
      UserError: ``steps`` is no multiple, or ``out`` holds other learning.
    """
    if steps % NUM_ENVS:
        raise UserError(f"{steps} steps are not a multiple of {NUM_ENVS}, the number of robots that take turns")
    request = {"env": env_id, "seed": seed, "steps": steps}
    evaluator = simulators(2 * EPISODES)
    robots = _Robots(simulators, seed)
    key = random_key(seed)
    sizes = evaluator.observation_dim, evaluator.action_dim
    state = State(
        sac.init(jax.random.fold_in(key, INIT_STREAM), hyper, *sizes),
        sac.empty_history(steps, *sizes),
    )
    with Checkpoints(out / "checkpoints") as checkpoints:
        done = max(checkpoints.numbers(), default=0)
        scores: list[Score] = []
        if done:
            found = checkpoints.record(done)["request"]
            if found != request:
                raise UserError(f"{out}: holds the learning of {found}, not of {request}; choose another folder")
            state, record = checkpoints.restore(done, state)
            scores = [Score(*row) for row in record["scores"]]
        begin, begun = time.perf_counter(), done
        while done < steps:
            stop = min(done + snapshot_steps, steps)
            state = _stretch(key, robots, hyper, state, done, stop)
            done = stop
            evaluation_key = jax.random.fold_in(jax.random.fold_in(key, EVALUATION_STREAM), done)
            score = evaluate(evaluation_key, evaluator, state.learner.actor, done)
            scores.append(score)
            facts = {"env": env_id, "seed": seed, "simulator": evaluator.version, "hyper": hyper._asdict()}
            facts |= (about or {}) | dict(zip(SCORES, score, strict=True))
            save_policy(out / "policies" / f"{done:07d}.npz", Policy(state.learner.actor, facts))
            _write_scores(out, scores)
            checkpoints.save(done, state, {"request": request, "scores": [list(row) for row in scores]})
            left = (time.perf_counter() - begin) / (done - begun) * (steps - done)
            progress(
                f"{env_id}: step {done}: return {score.return_:.0f} +- {score.return_std:.0f}, "
                f"mean action {score.mean_action_return:.0f} (about {duration(left)} left)"
            )
    robots.close()
    evaluator.close()


def _stretch(key: jax.Array, robots: _Robots, hyper: sac.Hyper, state: State, start: int, stop: int) -> State:
    """Environment steps ``start .. stop - 1``; every robot begins a new episode at ``start``."""
    learner, replay = state
    width = replay.observation.shape[1]
    observation = robots.reset(start, np.ones(NUM_ENVS, bool), np.zeros((NUM_ENVS, width), np.float32))
    action = _first_action(key, hyper, learner, observation, replay.action.shape[1], start)
    for step in range(start, stop, NUM_ENVS):
        rows = robots.step(observation, np.asarray(action))
        if step + NUM_ENVS >= stop:
            rows = rows._replace(truncated=~rows.terminated)
        ended = rows.terminated | rows.truncated
        observation = robots.reset(step + NUM_ENVS, ended, rows.next_observation)
        learning = step + NUM_ENVS > hyper.warmup_steps
        learner, replay, action = _advance(
            key, learner, replay, rows, jnp.int32(step), observation, hyper=hyper, learning=learning
        )
    return State(learner, replay)


def _first_action(
    key: jax.Array, hyper: sac.Hyper, learner: sac.Learner, observation: np.ndarray, action_dim: int, step: int
) -> jax.Array:
    """The action that begins a stretch."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, ACTION_STREAM), step), 1)
    shape = (len(observation), action_dim)
    if step <= hyper.warmup_steps:
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    distribution = sac.policy(learner.actor, jnp.asarray(observation), hyper.width, action_dim)
    return losses.squashed_normal(*distribution, jax.random.normal(key, shape))[0]


def _write_scores(out: Path, scores: list[Score]) -> None:
    with whole_file(out / "scores.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(SCORES)
        writer.writerows([score.step, *(f"{value:.1f}" for value in score[1:])] for score in scores)
