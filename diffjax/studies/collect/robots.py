"""Data of robots by D4RL's levels, rolled out from policies that are kept as small files.

``random``: uniform actions. ``expert``: the policy with the best evaluated return. ``medium``: the one nearest to a
third of that. ``medium-replay``: what the agent met on its way to the medium one, as a mixture: equal parts of uniform
actions and of every policy that is not newer than it. ``full-replay``: the same with all policies. ``medium-expert``:
equal parts of both. As in D4RL, policies act by sampling, not by their mean.
"""

import importlib.resources
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.minari_store import Episode
from diffjax.envs.base import VectorSimulator
from diffjax.envs.make import make_vector, simulator_version
from diffjax.errors import UserError, unknown_name
from diffjax.studies.collect import LEVELS, TRANSITIONS
from diffjax.studies.collect.policies import Policy, act, load_policy
from diffjax.studies.collect.recipe import PROGRESS_S, Progress, Recipe
from diffjax.words import count

NUM_ENVS = 100  # episodes side by side

Act = Callable[[jax.Array, np.ndarray], np.ndarray]
"""``(key, observation (envs, observation_dim)) -> action (envs, action_dim)``."""


class Part(NamedTuple):
    """So many transitions of one policy; None acts uniformly at random."""

    policy: Policy | None
    transitions: int


def policies_of(env_id: str, folder: Path | None = None) -> list[Policy]:
    """The policies of an environment, in the order of their age: those that come with diffjax, or those of a folder.

    Raises:
      UserError: there are none.
    """
    source = Path(str(importlib.resources.files("diffjax.studies.collect") / "weights")) if folder is None else folder
    found = [load_policy(path) for path in sorted(source.glob("*.npz"))]
    found = [policy for policy in found if policy.about.get("env") == env_id]
    if not found:
        raise UserError(f"{source}: has no policy of {env_id}; learn one with --learn")
    return sorted(found, key=lambda policy: policy.about["step"])


def expert(policies: Sequence[Policy]) -> Policy:
    """The policy with the best evaluated return of sampled actions."""
    return max(policies, key=lambda policy: policy.about["return"])


def medium(policies: Sequence[Policy]) -> Policy:
    """The policy whose evaluated return is nearest to a third of the expert's; the earliest of equals."""
    wanted = expert(policies).about["return"] / 3
    return min(policies, key=lambda policy: abs(policy.about["return"] - wanted))


def parts_of(level: str, policies: Sequence[Policy], transitions: int = TRANSITIONS) -> list[Part]:
    """What a level consists of."""
    if level == "random":
        return [Part(None, transitions)]
    if level in ("medium-replay", "full-replay"):
        last = (medium(policies) if level == "medium-replay" else policies[-1]).about["step"]
        met = [None, *(policy for policy in policies if policy.about["step"] <= last)]
        return [Part(policy, transitions // len(met)) for policy in met]
    chosen = {"medium": [medium], "expert": [expert], "medium-expert": [medium, expert]}[level]
    return [Part(choose(policies), transitions) for choose in chosen]


def uniform_action(key: jax.Array, observation: np.ndarray, action_dim: int) -> np.ndarray:
    """Uniform over [-1, 1] in every dimension."""
    return np.asarray(jax.random.uniform(key, (len(observation), action_dim), minval=-1.0, maxval=1.0))


def part_action(part: Part, action_dim: int) -> Act:
    """How a part acts."""
    if part.policy is None:
        return lambda key, observation: uniform_action(key, observation, action_dim)
    params = part.policy.params
    return lambda key, observation: np.asarray(act(key, params, observation, jnp.ones(len(observation))))


def roll_out(
    key: jax.Array,
    simulator: VectorSimulator,
    action_of: Act,
    transitions: int,
    progress: Progress = lambda line: None,
) -> list[Episode]:
    """Whole episodes, in the order of their environments, until they hold ``transitions`` steps or a few more."""
    episodes: list[Episode] = []
    total, rounds = 0, 0
    begin = shown = time.perf_counter()
    while total < transitions:
        for episode in play_round(jax.random.fold_in(key, rounds), simulator, action_of):
            if total < transitions:
                episodes.append(episode)
                total += len(episode.reward)
        rounds += 1
        if total < transitions and time.perf_counter() - shown > PROGRESS_S:
            shown = time.perf_counter()
            left = (shown - begin) / total * (transitions - total)
            progress(f"{100 * total // transitions} % of this part, about {left:.0f} s left")
    return episodes


def play_round(key: jax.Array, simulator: VectorSimulator, action_of: Act) -> list[Episode]:
    """One whole episode of every environment."""
    seeds_key, noise_key = jax.random.split(key)
    seeds = np.asarray(jax.random.bits(seeds_key, (simulator.num_envs,)))
    observations, actions, rewards = [simulator.reset(seeds)], [], []
    running = np.ones(simulator.num_envs, bool)
    length = np.zeros(simulator.num_envs, np.int64)
    terminal = np.zeros(simulator.num_envs, bool)
    for index in range(simulator.horizon):
        action = action_of(jax.random.fold_in(noise_key, index), observations[-1])
        observation, reward, terminated, truncated = simulator.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
        length += running
        terminal |= running & terminated
        running &= ~(terminated | truncated)
        if not running.any():
            break
    observation, action, reward = (
        np.stack(rows, axis=1).astype(np.float32) for rows in (observations, actions, rewards)
    )
    return [
        Episode(observation[i, : n + 1], action[i, :n], reward[i, :n], bool(terminal[i]), int(seeds[i]))
        for i, n in enumerate(length)
    ]


def collect(key: jax.Array, simulator: VectorSimulator, parts: Sequence[Part], progress: Progress) -> list[Episode]:
    """The episodes of all parts, one part after the other."""
    episodes: list[Episode] = []
    for index, part in enumerate(parts):
        action_of = part_action(part, simulator.action_dim)
        new = roll_out(jax.random.fold_in(key, index), simulator, action_of, part.transitions, progress)
        returns = np.array([episode.reward.sum() for episode in new])
        name = "uniform actions" if part.policy is None else f"policy after {part.policy.about['step']} steps"
        progress(f"{name}: {count(len(new), 'episode')}, return {returns.mean():.0f} +- {returns.std():.0f}")
        episodes += new
    return episodes


def recipe(env_id: str, level: str, policies: Path | None = None, transitions: int = TRANSITIONS) -> Recipe:
    """How the data of a level are made; ``transitions`` of one policy's part.

    Raises:
      UserError: there are no policies, or the level is unknown.
    """
    if level not in LEVELS:
        raise unknown_name("level", level, LEVELS)
    parts = parts_of(level, [] if level == "random" else policies_of(env_id, policies), transitions)
    stories = ["uniform actions" if part.policy is None else part.policy.about for part in parts]

    def collect_parts(key: jax.Array, progress: Progress) -> list[Episode]:
        vector = make_vector(env_id, NUM_ENVS)
        try:
            return collect(key, vector, parts, progress)
        finally:
            vector.close()

    description = f"{env_id}, level {level}: " + (
        "uniform actions." if level == "random" else "sampled actions of policies trained by soft actor-critic."
    )
    return Recipe(
        env_id,
        "diffjax SAC",
        description,
        simulator_version(env_id),
        {"level": level, "policies": stories},
        collect_parts,
    )
