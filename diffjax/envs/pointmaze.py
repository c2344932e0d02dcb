"""A point in a walled maze as pure functions: reach the goal, which alone is rewarded, before time is up."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.envs.base import PureSimulator

# '#' wall, 'S' the cell where episodes start, 'G' the goal's cell. Cells are unit squares; row r, column c spans
# x in [c, c + 1], y in [r, r + 1].
LAYOUT = (
    "########",
    "#S.#...#",
    "#..#.#.#",
    "##...#.#",
    "#..#...#",
    "#.####.#",
    "#.....G#",
    "########",
)
WALL = np.array([[cell == "#" for cell in row] for row in LAYOUT])
STEP_LENGTH = 0.9  # cells per step at full action, along each axis; below 1, so no step jumps a wall
GOAL_RADIUS = 0.5  # cells
CENTER = np.array([WALL.shape[1] / 2, WALL.shape[0] / 2], np.float32)
MARGIN = 1e-3  # cells kept between the point and a wall
OBSERVATION_SCALE = 2.0


def cell_center(symbol: str) -> np.ndarray:
    """``(x, y)`` of the middle of the one cell marked ``symbol``."""
    ((row, column),) = np.argwhere(np.array([list(line) for line in LAYOUT]) == symbol)
    return np.array([column + 0.5, row + 0.5], np.float32)


START = cell_center("S")
GOAL = cell_center("G")


class State(NamedTuple):
    """``position``: ``(x, y)`` in cells."""

    position: jax.Array


def reset(key: jax.Array) -> State:
    """Uniform over the middle 0.6 x 0.6 of the start cell."""
    return State(jnp.asarray(START) + jax.random.uniform(key, (2,), minval=-0.3, maxval=0.3))


def observe(state: State) -> jax.Array:
    """Position relative to the middle of the maze, in half cells."""
    return OBSERVATION_SCALE * (state.position - CENTER)


def _is_wall(position: jax.Array) -> jax.Array:
    column, row = jnp.floor(position).astype(int)
    return jnp.asarray(WALL)[row, column]


def _slide(position: jax.Array, distance: jax.Array, axis: int) -> jax.Array:
    """Move along one axis, up to the wall where there is one."""
    moved = position.at[axis].add(distance)
    edge = jnp.floor(moved[axis])
    stop = jnp.where(distance > 0, edge - MARGIN, edge + 1 + MARGIN)
    return jnp.where(_is_wall(moved), position.at[axis].set(stop), moved)


def step(state: State, action: jax.Array) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    """Move by ``0.9 action`` cells, x first, then y; a wall stops the motion along its axis.

    Terminates within 0.5 cells of the goal, with reward 1; every other step has reward 0.
    """
    motion = STEP_LENGTH * jnp.clip(action, -1.0, 1.0)
    position = _slide(_slide(state.position, motion[0], 0), motion[1], 1)
    arrived = jnp.sum((position - GOAL) ** 2) <= GOAL_RADIUS**2
    state = State(position)
    return state, observe(state), arrived.astype(jnp.float32), arrived


POINTMAZE = PureSimulator(
    name="diffjax/PointMaze",
    version="diffjax pointmaze 1",
    horizon=40,
    observation_dim=2,
    action_dim=2,
    reset=reset,
    observe=observe,
    step=step,
)
