"""D4RL's scripted controller for Maze2D: a shortest path through the cells, followed by a PD controller.

D4RL's reference maxima come from a script that keeps one controller for all of its episodes. The controller plans
when its target changes, which it never does there, so that from the second episode on it pulls straight towards the
end of its stale plan, walls or not: ``reuse_plan``. Source: d4rl/pointmaze/waypoint_controller.py and
scripts/reference_scores/maze2d_controller.py. What differs: the way is found by breadth-first search, with D4RL's
order among equals; D4RL's planner takes the goal's cell for a second target until it has once been the target.
"""

from collections import deque
from typing import NamedTuple

import numpy as np

from diffjax.envs.maze2d import LAYOUTS

GAIN = 10.0
DAMPING = 1.0
CLOSE = 0.1  # cells, and cells per step
SHIFT = 0.2  # cells; waypoints but the last lie -0.2 U(0, 1) off their cell, per axis
_MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))  # (row, column), D4RL's order


class Pursuit(NamedTuple):
    """A plan, ``(waypoints, 2)``, of which ``passed`` lie behind, and the position before."""

    waypoints: np.ndarray
    passed: int
    previous: np.ndarray

    @property
    def target(self) -> np.ndarray:
        """The last waypoint, the middle of the target's cell."""
        return self.waypoints[-1]


def shortest_path(layout: str, start: tuple[int, int], target: tuple[int, int]) -> list[tuple[int, int]]:
    """Cells (row, column) from the one after ``start`` to ``target``; only ``target`` where they are the same.

    Raises:
      ValueError: no way leads there.
    """
    grid = LAYOUTS[layout]
    distance = {target: 0}
    queue = deque([target])
    while queue:
        row, column = queue.popleft()
        for step_row, step_column in _MOVES:
            cell = (row + step_row, column + step_column)
            if grid[cell[0]][cell[1]] != "#" and cell not in distance:
                distance[cell] = distance[row, column] + 1
                queue.append(cell)
    if start not in distance:
        raise ValueError(f"no way leads from {start} to {target} in the {layout} maze")
    path = []
    while start != target:
        neighbours = [(start[0] + row, start[1] + column) for row, column in _MOVES]
        start = min((cell for cell in neighbours if cell in distance), key=lambda cell: distance[cell])
        path.append(start)
    return path or [target]


def cell_of(position: np.ndarray) -> tuple[int, int]:
    """The cell that a position rounds to."""
    row, column = np.rint(position).astype(int)
    return int(row), int(column)


def plan(layout: str, position: np.ndarray, target: np.ndarray, random: np.random.Generator) -> Pursuit:
    """The way from the cell of ``position`` to that of ``target``, each waypoint but the last shifted."""
    start = cell_of(position)
    waypoints = np.array(shortest_path(layout, start, cell_of(target)), float)
    waypoints[:-1] -= SHIFT * random.uniform(size=waypoints[:-1].shape)
    return Pursuit(waypoints, 0, np.array(start, float))


def follow(pursuit: Pursuit, position: np.ndarray, velocity: np.ndarray) -> tuple[np.ndarray, bool, Pursuit]:
    """Action ``clip(10 (waypoint - position) - velocity, -1, 1)``, whether the target is reached, and what follows.

    The next waypoint comes when this one is closer than 0.1 and the last step was shorter than 0.1.
    """
    slow = bool(np.linalg.norm(pursuit.previous - position) < CLOSE)
    arrived = slow and bool(np.linalg.norm(position - pursuit.target) < CLOSE)
    waypoint = pursuit.target if arrived else pursuit.waypoints[pursuit.passed]
    action = np.clip(GAIN * (waypoint - position) - DAMPING * velocity, -1.0, 1.0)
    passes = not arrived and slow and bool(np.linalg.norm(position - waypoint) < CLOSE)
    return action, arrived, Pursuit(pursuit.waypoints, pursuit.passed + passes, position)


class WaypointPolicy:
    """The controller for ``num_envs`` mazes with one target each.

    Args:
      reuse_plan: keep the plan of an environment's first episode for all later ones, as D4RL's script does.
    """

    def __init__(
        self, layout: str, target: np.ndarray, num_envs: int, random: np.random.Generator, reuse_plan: bool = False
    ) -> None:
        self._layout, self._target, self._random, self._reuse_plan = layout, target, random, reuse_plan
        self._pursuits: list[Pursuit | None] = [None] * num_envs

    def begin_episodes(self) -> None:
        """Forget all plans, unless they are reused."""
        if not self._reuse_plan:
            self._pursuits = [None] * len(self._pursuits)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Actions ``(num_envs, 2)`` for observations ``(num_envs, 4)`` of Maze2D."""
        actions = np.zeros((len(self._pursuits), 2))
        for index, row in enumerate(observation.astype(float)):
            position, velocity = row[:2], row[2:]
            pursuit = self._pursuits[index] or plan(self._layout, position, self._target, self._random)
            actions[index], _, self._pursuits[index] = follow(pursuit, position, velocity)
        return actions
