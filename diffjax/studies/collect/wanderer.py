"""A scripted wanderer in the point maze, and a controller that knows the way."""

from collections import deque
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.envs import pointmaze

WALK_STEPS = 24
ERRAND_CELLS = 4
WALK_NOISE = 0.8  # standard deviation, per action dimension
SWAY = 0.45  # cells from the middle of a corridor, at most; another one on every errand


class Map(NamedTuple):
    """Free cells of the maze and the ways between them, ``n`` cells.

    ``number (rows, columns)``: number of a cell, -1 for walls. ``center (n, 2)``: ``(x, y)``.
    ``distance (n, n)``: cells to walk. ``towards (n, n)``: ``towards[to, from]`` is the next cell on the way.
    """

    number: np.ndarray
    center: np.ndarray
    distance: np.ndarray
    towards: np.ndarray


def chart(wall: np.ndarray) -> Map:
    """All shortest paths between free cells (4-neighbours) by breadth-first search.

    Raises:
      ValueError: a free cell cannot be reached.
    """
    cells = np.argwhere(~wall)
    index = np.full(wall.shape, -1)
    index[~wall] = np.arange(len(cells))
    distance = np.full((len(cells), len(cells)), -1)
    towards = np.zeros_like(distance)
    for target in range(len(cells)):
        distance[target, target], towards[target, target] = 0, target
        queue = deque([target])
        while queue:
            here = queue.popleft()
            for step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                there = index[tuple(cells[here] + step)]
                if there >= 0 and distance[target, there] < 0:
                    distance[target, there], towards[target, there] = distance[target, here] + 1, here
                    queue.append(there)
    if (distance < 0).any():
        raise ValueError("the maze has free cells that cannot be reached")
    return Map(index, (cells[:, ::-1] + 0.5).astype(np.float32), distance, towards)


def cell_at(maze: Map, position: jax.Array) -> jax.Array:
    """Number of the cell that ``position`` lies in."""
    column, row = jnp.floor(position).astype(int)
    return jnp.asarray(maze.number)[row, column]


def walk_towards(maze: Map, position: jax.Array, target: jax.Array | int, sway: jax.Array | float = 0.0) -> jax.Array:
    """The action that leads straight to the next cell on the shortest path to cell ``target``.

    It aims ``sway (2,)`` cells beside the middle of that cell.
    """
    next_cell = jnp.asarray(maze.towards)[target, cell_at(maze, position)]
    aim = jnp.asarray(maze.center)[next_cell] + sway
    return jnp.clip((aim - position) / pointmaze.STEP_LENGTH, -1.0, 1.0)


class Errand(NamedTuple):
    """Where a wanderer is going: to cell ``target``, ``sway (2,)`` cells beside the middle of its way."""

    target: jax.Array
    sway: jax.Array


def draw_errand(key: jax.Array, maze: Map, cell: jax.Array) -> Errand:
    """To a uniformly chosen cell at most :data:`ERRAND_CELLS` cells away from ``cell``."""
    target_key, sway_key = jax.random.split(key)
    near = (maze.distance > 0) & (maze.distance <= ERRAND_CELLS)
    target = jax.random.categorical(target_key, jnp.where(jnp.asarray(near)[cell], 0.0, -jnp.inf))
    return Errand(target, jax.random.uniform(sway_key, (2,), minval=-SWAY, maxval=SWAY))


def wander(key: jax.Array, maze: Map) -> tuple[jax.Array, ...]:
    """One walk of :data:`WALK_STEPS` steps from a random place: short errands that know nothing of the goal.

    Every action has Gaussian noise. Returns observations ``(steps + 1, 2)``, actions, rewards, terminations;
    what follows arrival at the goal is padding.
    """
    start_key, place_key, errand_key, walk_key = jax.random.split(key, 4)

    def step(
        carry: tuple[pointmaze.State, Errand], key: jax.Array
    ) -> tuple[tuple[pointmaze.State, Errand], tuple[jax.Array, ...]]:
        state, errand = carry
        noise_key, errand_key = jax.random.split(key)
        noise = WALK_NOISE * jax.random.normal(noise_key, (2,))
        action = jnp.clip(walk_towards(maze, state.position, *errand) + noise, -1.0, 1.0)
        state, observation, reward, terminated = pointmaze.step(state, action)
        cell = cell_at(maze, state.position)
        renew = partial(jnp.where, cell == errand.target)
        errand = jax.tree.map(renew, draw_errand(errand_key, maze, cell), errand)
        return (state, errand), (observation, action, reward, terminated)

    elsewhere = (maze.center != pointmaze.GOAL).any(axis=1)  # nobody starts at the goal
    start = jax.random.categorical(start_key, jnp.where(jnp.asarray(elsewhere), 0.0, -jnp.inf))
    place = jax.random.uniform(place_key, (2,), minval=-0.49, maxval=0.49)
    state = pointmaze.State(jnp.asarray(maze.center)[start] + place)
    carry = (state, draw_errand(errand_key, maze, start))
    _, (observation, *rest) = jax.lax.scan(step, carry, jax.random.split(walk_key, WALK_STEPS))
    return (jnp.concatenate([pointmaze.observe(state)[None], observation]), *rest)
