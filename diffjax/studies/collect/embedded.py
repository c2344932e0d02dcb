"""The embedded tasks: how their data are made, and who their experts are."""

import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.minari_store import Episode
from diffjax.envs import pointmaze, thrusters
from diffjax.envs.base import PureSimulator
from diffjax.envs.pendulum import PENDULUM
from diffjax.envs.pointmaze import POINTMAZE
from diffjax.errors import UserError
from diffjax.numerics import random_key
from diffjax.studies.collect import sac, sac_pure, wanderer
from diffjax.studies.collect.recipe import Progress, Recipe

Policy = Callable[[jax.Array, jax.Array], jax.Array]
"""``(key, observation) -> action``, one of each."""


class ReferenceScores(NamedTuple):
    """Mean returns of the uniform-random policy and of the expert, with their standard errors."""

    ref_min: float
    ref_min_error: float
    ref_max: float
    ref_max_error: float


class Embedded(NamedTuple):
    """One embedded task: its simulator, how its data are made, and who its expert is."""

    simulator: PureSimulator
    algorithm: str
    description: str
    collect: Callable[[jax.Array, Progress], list[Episode]]
    expert: Callable[[jax.Array, Progress], Policy]


NUM_AGENTS = 4
AGENT_STEPS = 10_000
EXPERT_STEPS = 20_000
AGENT = sac.Hyper(width=64, batch_size=64, warmup_steps=1000, lr=1e-3, discount=0.99, tau=0.01)
PIECES = 10  # calls of the learners' program, between which progress is shown


def learn(key: jax.Array, simulator: PureSimulator, steps: int, progress: Progress) -> sac_pure.Agent:
    """:data:`NUM_AGENTS` agents that learn from scratch side by side, with the history of all their steps."""
    init_key, step_key = jax.random.split(key)
    init_keys = jax.random.split(init_key, NUM_AGENTS)
    keys = jax.random.split(step_key, NUM_AGENTS)
    agents = jax.jit(jax.vmap(lambda k: sac_pure.init(k, simulator, AGENT, steps)))(init_keys)
    advance = partial(sac_pure.advance, simulator=simulator, hyper=AGENT)
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
        return lambda _, observation: sac_pure.policy_mean(PENDULUM, AGENT, actor, observation)

    actors = [jax.tree.map(lambda x, i=i: x[i], agents.learner.actor) for i in range(NUM_AGENTS)]
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


NUM_FLIGHTS = 500
REACH = 2.0  # of a pilot's controller: force per distance, critically damped


def steer(count: int, observation: jax.Array) -> jax.Array:
    """Thrust towards the goal with the least effort, ``(count,)``: ``a_k = u_k . f / F`` of a damped spring's force."""
    position, velocity = observation[:2], thrusters.VELOCITY_SCALE * observation[2:]
    wanted = -(REACH * position + 2.0 * REACH**0.5 * velocity)
    return jnp.clip(thrusters.directions(count) @ wanted / thrusters.FORCE, -1.0, 1.0)


def fly(key: jax.Array, simulator: PureSimulator) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Observations, actions and rewards of one flight, by a pilot who uses every other thruster only.

    A pilot is drawn per flight: which half of the thrusters, twice as hard; how bold (0 to 0.8), and how steady.
    """
    count = simulator.action_dim
    start_key, half_key, bold_key, noise_key, step_key = jax.random.split(key, 5)
    own_half = jnp.arange(count) % 2 == jax.random.bernoulli(half_key)
    boldness = jax.random.uniform(bold_key, maxval=0.8)
    noise = jax.random.uniform(noise_key, minval=0.2, maxval=0.8)
    state = simulator.reset(start_key)

    def step(state: thrusters.State, key: jax.Array) -> tuple[thrusters.State, tuple[jax.Array, ...]]:
        wanted = jnp.where(own_half, 2.0 * boldness * steer(count, thrusters.observe(state)), 0.0)
        action = jnp.clip(wanted + noise * jax.random.normal(key, (count,)), -1.0, 1.0)
        state, observation, reward, _ = simulator.step(state, action)
        return state, (observation, action, reward)

    _, (observation, action, reward) = jax.lax.scan(step, state, jax.random.split(step_key, simulator.horizon))
    return jnp.concatenate([thrusters.observe(state)[None], observation]), action, reward


def collect_flights(simulator: PureSimulator, key: jax.Array, progress: Progress) -> list[Episode]:
    """:data:`NUM_FLIGHTS` flights."""
    flights = jax.jit(jax.vmap(lambda key: fly(key, simulator)))(jax.random.split(key, NUM_FLIGHTS))
    observation, action, reward = map(np.asarray, flights)
    return [Episode(*flight, terminal=False) for flight in zip(observation, action, reward, strict=True)]


def best_pilot(simulator: PureSimulator, key: jax.Array, progress: Progress) -> Policy:
    """Uses all thrusters, without noise."""
    return lambda _, observation: steer(simulator.action_dim, observation)


TASKS = {
    "pendulum-mixed": Embedded(
        PENDULUM,
        "SAC (history of four agents while learning)",
        "Pendulum swing-up: all 10000 steps of each of four SAC agents learning from scratch.",
        collect_pendulum,
        pendulum_expert,
    ),
    "pointmaze-mixed": Embedded(
        POINTMAZE,
        "scripted wanderer",
        "Point maze: noisy walks between nearby random cells, from random cells, without knowledge of the goal.",
        collect_pointmaze,
        pointmaze_expert,
    ),
    **{
        f"thrusters-{simulator.action_dim}-mixed": Embedded(
            simulator,
            "scripted pilots",
            f"Craft with {simulator.action_dim} thrusters: bold and shy pilots who use one half of them, noisily.",
            partial(collect_flights, simulator),
            partial(best_pilot, simulator),
        )
        for simulator in thrusters.THRUSTERS
    },
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


def recipe(task_id: str) -> Recipe:
    """How the data of an embedded task are made.

    Raises:
      UserError: the task is not an embedded one.
    """
    embedded = _get(task_id)
    simulator = embedded.simulator
    return Recipe(simulator.name, embedded.algorithm, embedded.description, simulator.version, {}, embedded.collect)


def measure_reference_scores(task_id: str, progress: Progress, episodes: int, seed: int) -> ReferenceScores:
    """Mean returns of the uniform-random policy and of the task's expert over ``episodes`` episodes each.

    Raises:
      UserError: the task is not an embedded one.
    """
    embedded = _get(task_id)
    uniform_key, expert_key, play_key = jax.random.split(random_key(seed), 3)
    random = play(uniform_key, embedded.simulator, random_policy(embedded.simulator), episodes)
    expert = play(play_key, embedded.simulator, embedded.expert(expert_key, progress), episodes)
    error = 1.0 / np.sqrt(episodes)
    return ReferenceScores(random.mean(), random.std() * error, expert.mean(), expert.std() * error)


def _get(task_id: str) -> Embedded:
    if task_id not in TASKS:
        raise UserError(f"task {task_id} is not an embedded one; one of: {', '.join(TASKS)}")
    return TASKS[task_id]
