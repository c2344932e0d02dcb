"""D4RL's Maze2D: a force-driven point in a maze of unit cells, paid for being near the goal; it never terminates.

Built anew from D4RL's definitions (d4rl/pointmaze/maze_model.py, the ``-v1`` horizons, ``-v0`` for ``open``). Where
this differs: the version of MuJoCo (contacts as before 3.5, see
:func:`diffjax.envs.mujoco_vector.restore_contact_margin`); every episode draws its start from its own seed, D4RL from
one stream; D4RL computes the dynamics once more after it cuts the velocity, which changes the solver's first guess
alone.

Positions are D4RL's: ``qpos`` (i, j) lies in row i, column j of the layout, 0.2 cells off its middle, as the body
sits at (1.2, 1.2) and the wall of cell (i, j) at (i + 1, j + 1).
"""

from functools import partial
from typing import Any

import mujoco
import numpy as np

from diffjax.envs.mujoco_vector import MujocoEnvironment, Start, State, quiet_mujoco

# '#' wall, 'G' goal.
LAYOUTS = {
    "open": ("#######", "#.....#", "#..G..#", "#.....#", "#######"),
    "umaze": ("#####", "#G..#", "###.#", "#...#", "#####"),
    "medium": (
        "########",
        "#..##..#",
        "#..#...#",
        "##...###",
        "#..#...#",
        "#.#..#.#",
        "#...#.G#",
        "########",
    ),
    "large": (
        "############",
        "#....#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#.G.#",
        "############",
    ),
}
HORIZONS = {"open": 150, "umaze": 300, "medium": 600, "large": 800}
GOAL_RADIUS = 0.5  # cells
MAX_SPEED = 5.0  # cells / s, per axis, before a step
POSITION_NOISE = 0.1
VELOCITY_NOISE = 0.1


def goal_position(layout: str) -> np.ndarray:
    """``qpos`` of the goal: its row and column."""
    (goal,) = np.argwhere(_grid(layout) == "G")
    return goal.astype(float)


def free_cells(layout: str) -> np.ndarray:
    """Rows and columns of all cells that are no wall, ``(cells, 2)``; an episode starts in any of them."""
    return np.argwhere(_grid(layout) != "#")


def _grid(layout: str) -> np.ndarray:
    return np.array([list(line) for line in LAYOUTS[layout]])


def maze_xml(layout: str) -> str:
    """The point and its maze as MuJoCo's XML."""
    walls = "".join(
        f'<geom name="wall_{row}_{column}" type="box" pos="{row + 1} {column + 1} 0" size="0.5 0.5 0.2"/>'
        for row, column in np.argwhere(_grid(layout) == "#")
    )
    return f"""
    <mujoco model="maze2d">
      <compiler angle="radian" inertiafromgeom="true"/>
      <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
      <default>
        <joint damping="1" limited="false"/>
        <geom friction=".5 .1 .1" density="1000" margin="0.002" condim="1" contype="2" conaffinity="1"/>
      </default>
      <worldbody>
        <geom name="ground" type="plane" size="40 40 0.25" pos="0 0 -0.1" contype="1" conaffinity="0"/>
        <body name="particle" pos="1.2 1.2 0">
          <geom name="particle" type="sphere" size="0.1" contype="1"/>
          <joint name="x" type="slide" axis="1 0 0"/>
          <joint name="y" type="slide" axis="0 1 0"/>
        </body>
        {walls}
      </worldbody>
      <actuator>
        <motor joint="x" ctrllimited="true" ctrlrange="-1 1" gear="100"/>
        <motor joint="y" ctrllimited="true" ctrlrange="-1 1" gear="100"/>
      </actuator>
    </mujoco>"""


def load_model(layout: str) -> Any:
    """The ``mujoco.MjModel`` of a layout."""
    with quiet_mujoco():
        return mujoco.MjModel.from_xml_string(maze_xml(layout))


def maze2d(layout: str, dense: bool = False) -> MujocoEnvironment:
    """The maze of a layout; observation ``qpos, qvel`` (4 numbers), goal not observed.

    Reward 1 within 0.5 of the goal after the step, else 0; ``dense``: ``exp(-distance)``.
    """
    return MujocoEnvironment(
        model=load_model(layout),
        frame_skip=1,
        horizon=HORIZONS[layout],
        reset=partial(_reset, free_cells(layout), goal_position(layout)),
        observe=_observe,
        reward=_dense_reward if dense else _sparse_reward,
        speed_limit=MAX_SPEED,
    )


def _reset(cells: np.ndarray, goal: np.ndarray, random: np.random.Generator) -> Start:
    cell = cells[random.integers(len(cells))]
    qpos = cell + random.uniform(-POSITION_NOISE, POSITION_NOISE, 2)
    return Start(qpos, VELOCITY_NOISE * random.standard_normal(2), goal)


def _observe(state: State) -> np.ndarray:
    return np.concatenate([state.qpos, state.qvel], axis=1)


def _distance(state: State) -> np.ndarray:
    return np.linalg.norm(state.qpos - state.goal, axis=1)


def _sparse_reward(before: State, action: np.ndarray, after: State) -> np.ndarray:
    return (_distance(after) <= GOAL_RADIUS).astype(float)


def _dense_reward(before: State, action: np.ndarray, after: State) -> np.ndarray:
    return np.exp(-_distance(after))
