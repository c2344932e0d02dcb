"""Maze2D's data as D4RL made them: a controller that walks to one random place after another and never starts anew.

D4RL walked one trajectory of a million steps; here :data:`NUM_ENVS` walk side by side. Rewards are those of the
evaluated goal, which the walker does not know.
"""

import time

import jax
import numpy as np

from diffjax.data.minari_store import Episode
from diffjax.envs.make import make_vector, simulator_version
from diffjax.envs.maze2d import HORIZONS, POSITION_NOISE, free_cells
from diffjax.studies.collect.recipe import PROGRESS_S, Progress, Recipe
from diffjax.studies.collect.waypoints import Pursuit, follow, plan

TRANSITIONS = 200_000
NUM_ENVS = 20


def collect(key: jax.Array, layout: str, transitions: int, progress: Progress) -> list[Episode]:
    """:data:`NUM_ENVS` walks of equal length, ``transitions`` steps in all; every one ends at a time limit."""
    steps = -(-transitions // NUM_ENVS)
    seeds_key, target_key = jax.random.split(key)
    seeds = np.asarray(jax.random.bits(seeds_key, (NUM_ENVS,)))
    random = np.random.default_rng(np.asarray(jax.random.bits(target_key, (4,))))
    simulator = make_vector(f"d4rl/Maze2D-{layout}", NUM_ENVS, horizon=steps)
    cells = free_cells(layout)
    pursuits: list[Pursuit | None] = [None] * NUM_ENVS
    age = np.zeros(NUM_ENVS, np.int64)  # steps since the target was chosen
    observations, actions, rewards = [simulator.reset(seeds)], [], []
    begin = shown = time.perf_counter()
    for step in range(steps):
        action = np.zeros((NUM_ENVS, 2), np.float32)
        for index, row in enumerate(observations[-1].astype(float)):
            pursuit = pursuits[index]
            if pursuit is None:
                noise = random.uniform(-POSITION_NOISE, POSITION_NOISE, 2)
                pursuit = plan(layout, row[:2], cells[random.integers(len(cells))] + noise, random)
                age[index] = 0
            action[index], arrived, pursuit = follow(pursuit, row[:2], row[2:])
            age[index] += 1
            pursuits[index] = None if arrived or age[index] >= HORIZONS[layout] else pursuit
        observation, reward, _, _ = simulator.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
        if time.perf_counter() - shown > PROGRESS_S:
            shown = time.perf_counter()
            left = (shown - begin) / (step + 1) * (steps - step - 1)
            progress(f"maze {layout}: {100 * (step + 1) // steps} %, about {left:.0f} s left")
    simulator.close()
    stack = lambda rows: np.stack(rows, axis=1).astype(np.float32)  # noqa: E731
    observation, action, reward = map(stack, (observations, actions, rewards))
    return [Episode(observation[i], action[i], reward[i], False, int(seeds[i])) for i in range(NUM_ENVS)]


def recipe(layout: str, transitions: int = TRANSITIONS) -> Recipe:
    """How the data of one maze are made."""
    env_id = f"d4rl/Maze2D-{layout}"
    return Recipe(
        env_id,
        "waypoint controller",
        f"Maze2D {layout}: walks to random places by D4RL's waypoint controller, without noise.",
        simulator_version(env_id),
        {"layout": layout},
        lambda key, progress: collect(key, layout, transitions, progress),
    )
