"""Collect the embedded tasks' data, or measure their reference scores again.

Examples:
  python -m diffjax.collect.embedded --task=pendulum-mixed
  python -m diffjax.collect.embedded --task=pointmaze-mixed --measure

Data is stored once as a local Minari data set; --measure prints the mean returns of the uniform-random policy
(score 0) and of the expert (score 100) and stores nothing.
"""

import itertools
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from diffjax import cli
from diffjax.collect import sac, wanderer
from diffjax.data.minari_store import Episode, minari_exists, write_minari
from diffjax.envs import pointmaze
from diffjax.envs.base import PureSimulator
from diffjax.envs.pendulum import PENDULUM
from diffjax.envs.pointmaze import POINTMAZE
from diffjax.errors import UserError
from diffjax.tasks import Task, get_task, to_stderr

Policy = Callable[[jax.Array, jax.Array], jax.Array]
"""``(key, observation) -> action``, one of each."""
Progress = Callable[[str], None]


class ReferenceScores(NamedTuple):
    """Mean returns of the uniform-random policy and of the expert, with their standard errors."""

    ref_min: float
    ref_min_error: float
    ref_max: float
    ref_max_error: float


class Recipe(NamedTuple):
    """How the data of one task is made, and who its expert is."""

    simulator: PureSimulator
    algorithm: str
    description: str
    collect: Callable[[jax.Array, Progress], list[Episode]]
    expert: Callable[[jax.Array, Progress], Policy]


SEED = 0
"""Of every data set; another machine may differ in the last bit and then in more."""

NUM_AGENTS = 4
AGENT_STEPS = 10_000
EXPERT_STEPS = 20_000
AGENT = sac.Hyper(width=64, batch_size=64, warmup_steps=1000, lr=1e-3, discount=0.99, tau=0.01)
PIECES = 10  # calls of the learners' program, between which progress is shown


def learn(key: jax.Array, simulator: PureSimulator, steps: int, progress: Progress) -> sac.Agent:
    """:data:`NUM_AGENTS` agents that learn from scratch side by side, with the history of all their steps."""
    init_key, step_key = jax.random.split(key)
    init_keys = jax.random.split(init_key, NUM_AGENTS)
    keys = jax.random.split(step_key, NUM_AGENTS)
    agents = jax.jit(jax.vmap(lambda k: sac.init(k, simulator, AGENT, steps)))(init_keys)
    advance = partial(sac.advance, simulator=simulator, hyper=AGENT)
    agents = advance(keys, agents, jnp.int32(0), length=AGENT.warmup_steps, learning=False)
    piece = (steps - AGENT.warmup_steps) // PIECES
    if piece * PIECES != steps - AGENT.warmup_steps:
        raise ValueError(f"{steps} steps after {AGENT.warmup_steps} do not fall into {PIECES} pieces")
    begin = 0.0
    for index in range(PIECES):
        start = jnp.int32(AGENT.warmup_steps + index * piece)
        agents = jax.block_until_ready(advance(keys, agents, start, length=piece, learning=True))
        if index == 0:  # this one compiled
            begin = time.perf_counter()
        elif index % 3 == 0:
            left = (time.perf_counter() - begin) / index * (PIECES - 1 - index)
            progress(f"{NUM_AGENTS} agents learn: {100 * (index + 1) // PIECES} %, about {left:.0f} s left")
    return agents


def episodes_of(history: sac.History) -> list[Episode]:
    """The episodes of one agent's history, ``(steps, ...)`` each; the last may be cut short."""
    host = jax.tree.map(np.asarray, history)
    ends = np.flatnonzero(host.terminated | host.truncated)
    steps = len(host.reward)
    bounds = [0, *(ends + 1)]
    if bounds[-1] != steps:
        bounds.append(steps)
    return [
        Episode(
            observation=np.concatenate([host.observation[a:b], host.next_observation[b - 1 : b]]),
            action=host.action[a:b],
            reward=host.reward[a:b],
            terminal=bool(host.terminated[b - 1]),
        )
        for a, b in itertools.pairwise(bounds)
    ]


def collect_pendulum(key: jax.Array, progress: Progress) -> list[Episode]:
    """Everything that four agents did while they learnt to swing up."""
    agents = learn(key, PENDULUM, AGENT_STEPS, progress)
    histories = [jax.tree.map(lambda x, i=i: x[i], agents.replay) for i in range(NUM_AGENTS)]
    return [episode for history in histories for episode in episodes_of(history)]


def pendulum_expert(key: jax.Array, progress: Progress) -> Policy:
    """The best of four trained agents, judged by 100 episodes each; it acts by the mean of its policy."""
    learn_key, judge_key = jax.random.split(key)
    agents = learn(learn_key, PENDULUM, EXPERT_STEPS, progress)

    def policy(actor: sac.Params) -> Policy:
        return lambda _, observation: sac.policy_mean(PENDULUM, AGENT, actor, observation)

    actors = [jax.tree.map(lambda x, i=i: x[i], agents.actor) for i in range(NUM_AGENTS)]
    # One key for all: they are judged from the same starts.
    returns = [play(judge_key, PENDULUM, policy(actor), episodes=100).mean() for actor in actors]
    return policy(actors[int(np.argmax(returns))])


NUM_WALKS = 1000


def collect_pointmaze(key: jax.Array, progress: Progress) -> list[Episode]:
    """:data:`NUM_WALKS` walks, each ending at the goal if it comes past it."""
    maze = wanderer.chart(pointmaze.WALL)
    walks = jax.jit(jax.vmap(lambda k: wanderer.wander(k, maze)))(jax.random.split(key, NUM_WALKS))
    observation, action, reward, terminated = map(np.asarray, walks)
    arrived = np.asarray(terminated.any(axis=1))
    length = np.where(arrived, terminated.argmax(axis=1) + 1, wanderer.WALK_STEPS)
    return [
        Episode(observation[i, : n + 1], action[i, :n], reward[i, :n], bool(arrived[i])) for i, n in enumerate(length)
    ]


def pointmaze_expert(key: jax.Array, progress: Progress) -> Policy:
    """Walks the shortest path over the middles of the cells."""
    maze = wanderer.chart(pointmaze.WALL)
    goal = int(wanderer.cell_at(maze, jnp.asarray(pointmaze.GOAL)))
    scale = pointmaze.OBSERVATION_SCALE
    return lambda _, observation: wanderer.walk_towards(maze, observation / scale + pointmaze.CENTER, goal)


RECIPES = {
    "pendulum-mixed": Recipe(
        PENDULUM,
        "SAC (history of four agents while learning)",
        "Pendulum swing-up: all 10000 steps of each of four SAC agents learning from scratch.",
        collect_pendulum,
        pendulum_expert,
    ),
    "pointmaze-mixed": Recipe(
        POINTMAZE,
        "scripted wanderer",
        "Point maze: noisy walks between nearby random cells, from random cells, without knowledge of the goal.",
        collect_pointmaze,
        pointmaze_expert,
    ),
}


def play(key: jax.Array, simulator: PureSimulator, policy: Policy, episodes: int) -> np.ndarray:
    """Undiscounted returns of ``episodes`` episodes, ``(episodes,)``."""

    def episode(key: jax.Array) -> jax.Array:
        reset_key, act_key = jax.random.split(key)
        state = simulator.reset(reset_key)

        def step(carry: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            state, done = carry
            action = policy(key, simulator.observe(state))
            state, _, reward, terminated = simulator.step(state, action)
            return (state, done | terminated), jnp.where(done, 0.0, reward)

        keys = jax.random.split(act_key, simulator.horizon)
        _, rewards = jax.lax.scan(step, (state, jnp.zeros((), bool)), keys)
        return jnp.sum(rewards)

    return np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(key, episodes)))


def random_policy(simulator: PureSimulator) -> Policy:
    """Uniform over [-1, 1] in every dimension."""
    return lambda key, _: jax.random.uniform(key, (simulator.action_dim,), minval=-1.0, maxval=1.0)


def measure_reference_scores(task: Task, progress: Progress, episodes: int = 1000, seed: int = SEED) -> ReferenceScores:
    """Mean returns of the uniform-random policy and of the task's expert over ``episodes`` episodes each.

    Raises:
      UserError: the task is not an embedded one.
    """
    recipe = _recipe(task)
    random_key, expert_key, play_key = jax.random.split(jax.random.key(seed), 3)
    random = play(random_key, recipe.simulator, random_policy(recipe.simulator), episodes)
    expert = play(play_key, recipe.simulator, recipe.expert(expert_key, progress), episodes)
    error = 1.0 / np.sqrt(episodes)
    return ReferenceScores(random.mean(), random.std() * error, expert.mean(), expert.std() * error)


def store_dataset(task: Task, progress: Progress) -> None:
    """Collect the task's own data and store it as a local Minari data set.

    Raises:
      UserError: the task is not an embedded one, or its data cannot be stored.
    """
    recipe = _recipe(task)
    dataset_id = str(task.default_dataset)
    progress(f"collecting {dataset_id} (once)")
    begin = time.perf_counter()
    episodes = recipe.collect(jax.random.key(SEED), progress)
    folder = write_minari(
        dataset_id,
        episodes,
        env_id=task.env_id,
        algorithm=recipe.algorithm,
        description=recipe.description,
        ref_min=task.ref_min,
        ref_max=task.ref_max,
        provenance={"simulator": recipe.simulator.version, "seed": SEED},
        exist_ok=True,
    )
    steps = sum(len(episode.reward) for episode in episodes)
    seconds = time.perf_counter() - begin
    progress(f"collected {steps} transitions in {len(episodes)} episodes in {seconds:.0f} s: {folder}")


def _recipe(task: Task) -> Recipe:
    if task.id not in RECIPES:
        raise UserError(f"task {task.id} is not an embedded one; one of: {', '.join(RECIPES)}")
    return RECIPES[task.id]


def define_flags(values: flags.FlagValues) -> None:
    """The command line."""
    flags.DEFINE_string("task", None, "ID: An embedded task.", flag_values=values)
    flags.DEFINE_bool("measure", False, "Measure the reference scores; store nothing.", flag_values=values)
    flags.DEFINE_integer("episodes", 1000, "Episodes per policy with --measure.", lower_bound=2, flag_values=values)
    flags.DEFINE_integer("seed", SEED, "Seed with --measure.", lower_bound=0, flag_values=values)


def main(args: flags.FlagValues) -> None:
    """Collect or measure."""
    task = get_task(args.task)
    _recipe(task)
    if args.measure:
        scores = measure_reference_scores(task, to_stderr, args.episodes, args.seed)
        print(f"{task.id}: ref_min {scores.ref_min:.3f} +- {scores.ref_min_error:.3f}, ", end="")
        print(f"ref_max {scores.ref_max:.3f} +- {scores.ref_max_error:.3f} (mean +- standard error)")
    elif minari_exists(str(task.default_dataset)):
        print(f"{task.default_dataset} is already there")
    else:
        store_dataset(task, to_stderr)


if __name__ == "__main__":
    sys.exit(cli.launch(main, define_flags, description=__doc__, required=("task",)))
