"""D4RL's AntMaze: an ant walks through a maze of 4 m cells to a goal that it does not observe.

Built anew from D4RL's definitions (d4rl/locomotion: ant.py, maze_env.py, goal_reaching_env.py). Where this differs: the
version of MuJoCo (contacts as before 3.5, see :func:`diffjax.envs.mujoco_vector.restore_contact_margin`; from MuJoCo 4
on the Runge-Kutta step turns free joints with fourth order, before with second); every episode draws its noise and its
goal from its own seed, D4RL from one stream; actions are scaled in float32, D4RL in float64. In ``-v0`` D4RL draws one
goal per environment and process; here ``goal_seed`` names it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mujoco
import numpy as np

from diffjax.envs.mujoco_vector import MujocoEnvironment, Start, State, quiet_mujoco

# '#' wall, 'R' start, 'G' goal.
LAYOUTS = {
    "umaze": ("#####", "#R..#", "###.#", "#G..#", "#####"),
    "medium": (
        "########",
        "#R.##..#",
        "#..#...#",
        "##...###",
        "#..#...#",
        "#.#..#.#",
        "#...#.G#",
        "########",
    ),
    "large": (
        "############",
        "#R...#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#.G.#",
        "############",
    ),
}
HORIZONS = {"umaze": 700, "medium": 1000, "large": 1000}
CELL = 4.0  # m
WALL_HEIGHT = 2.0  # m
GOAL_RADIUS = 0.5  # m
MAX_CONTROL = 30.0  # at action 1
RESET_NOISE = 0.1
FRAME_SKIP = 5  # of 0.02 s

# Signs of a leg's (x, y), axis of its ankle, range of the ankle in degrees.
_LEGS = (
    ((1, 1), "-1 1 0", "30 70"),
    ((-1, 1), "1 1 0", "-70 -30"),
    ((-1, -1), "-1 1 0", "-70 -30"),
    ((1, -1), "1 1 0", "30 70"),
)
_MOTORS = ("hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3")


def cell_position(layout: str, row: int, column: int) -> np.ndarray:
    """``(x, y)`` of the middle of a cell, in m; the middle of the start cell is the origin."""
    start_row, start_column = next(_cells(layout, "R"))
    return CELL * np.array([column - start_column, row - start_row], float)


def _cells(layout: str, symbol: str) -> Iterator[tuple[int, int]]:
    for row, line in enumerate(LAYOUTS[layout]):
        yield from ((row, column) for column, cell in enumerate(line) if cell == symbol)


def goal_cell_position(layout: str) -> np.ndarray:
    """``(x, y)`` of the middle of the goal's cell, in m."""
    return cell_position(layout, *next(_cells(layout, "G")))


def sample_goal(layout: str, random: np.random.Generator) -> np.ndarray:
    """Middle of the goal's cell + U(0, 1) + U(0, 0.5) m per axis, at least 0."""
    goal = goal_cell_position(layout) + random.uniform(0.0, 0.25 * CELL, 2) + random.uniform(0.0, 0.125 * CELL, 2)
    return np.maximum(goal, 0.0)


def maze_xml(layout: str) -> str:
    """The ant and its maze as MuJoCo's XML."""
    half, height = CELL / 2, WALL_HEIGHT / 2
    walls = "".join(
        f'<geom name="wall_{row}_{column}" type="box" pos="{x} {y} {height}" size="{half} {half} {height}"'
        ' contype="1" conaffinity="1"/>'
        for row, column in _cells(layout, "#")
        for x, y in [cell_position(layout, row, column)]
    )
    legs = "".join(_leg_xml(number, *leg) for number, leg in enumerate(_LEGS, 1))
    motors = "".join(
        f'<motor joint="{joint}" ctrllimited="true" ctrlrange="-{MAX_CONTROL} {MAX_CONTROL}" gear="1"/>'
        for joint in _MOTORS
    )
    return f"""
    <mujoco model="antmaze">
      <compiler angle="degree" inertiafromgeom="true"/>
      <option integrator="RK4" timestep="0.02"/>
      <default>
        <joint armature="1" damping="1" limited="true"/>
        <geom condim="3" conaffinity="0" margin="0.01" friction="1 0.5 0.5" solref=".02 1" solimp=".8 .8 .01"
              density="5"/>
      </default>
      <worldbody>
        <geom name="floor" type="plane" size="40 40 40" conaffinity="1"/>
        <body name="torso" pos="0 0 0.75">
          <joint name="root" type="free" armature="0" damping="0" limited="false" margin="0.01"/>
          <geom name="torso" type="sphere" size="0.25"/>
          {legs}
        </body>
        {walls}
      </worldbody>
      <actuator>{motors}</actuator>
    </mujoco>"""


def _leg_xml(number: int, signs: tuple[int, int], ankle_axis: str, ankle_range: str) -> str:
    def along(length: float) -> str:
        return f"{length * signs[0]} {length * signs[1]} 0"

    return f"""
    <body name="leg_{number}">
      <geom type="capsule" size="0.08" fromto="0 0 0 {along(0.2)}"/>
      <body pos="{along(0.2)}">
        <joint name="hip_{number}" type="hinge" axis="0 0 1" range="-30 30"/>
        <geom type="capsule" size="0.08" fromto="0 0 0 {along(0.2)}"/>
        <body pos="{along(0.2)}">
          <joint name="ankle_{number}" type="hinge" axis="{ankle_axis}" range="{ankle_range}"/>
          <geom type="capsule" size="0.08" fromto="0 0 0 {along(0.4)}"/>
        </body>
      </body>
    </body>"""


def load_model(layout: str) -> Any:
    """The ``mujoco.MjModel`` of a layout."""
    with quiet_mujoco():
        return mujoco.MjModel.from_xml_string(maze_xml(layout))


def antmaze(layout: str) -> MujocoEnvironment:
    """The maze of a layout as in ``-v2``: every episode draws a goal.

    Observation ``qpos, qvel`` (29 numbers, the first two x and y). Reward 1 within 0.5 m of the goal after the step,
    which ends the episode, else 0.
    """
    return _environment(layout, partial(sample_goal, layout))


def antmaze_fixed_goal(layout: str, goal_seed: int = 0) -> MujocoEnvironment:
    """The maze of a layout as in ``-v0``: one goal for all episodes, which ``goal_seed`` draws."""
    goal = sample_goal(layout, np.random.default_rng(goal_seed))
    return _environment(layout, lambda random: goal)


def _environment(layout: str, draw_goal: Callable[[np.random.Generator], np.ndarray]) -> MujocoEnvironment:
    model = load_model(layout)

    def reset(random: np.random.Generator) -> Start:
        goal = draw_goal(random)
        qpos = model.qpos0 + random.uniform(-RESET_NOISE, RESET_NOISE, model.nq)
        return Start(qpos, RESET_NOISE * random.standard_normal(model.nv), goal)

    return MujocoEnvironment(
        model=model,
        frame_skip=FRAME_SKIP,
        horizon=HORIZONS[layout],
        reset=reset,
        observe=_observe,
        reward=_reward,
        terminated=_arrived,
        action_scale=MAX_CONTROL,
    )


def _observe(state: State) -> np.ndarray:
    return np.concatenate([state.qpos, state.qvel], axis=1)


def _arrived(state: State) -> np.ndarray:
    return np.linalg.norm(state.qpos[:, :2] - state.goal, axis=1) <= GOAL_RADIUS


def _reward(before: State, action: np.ndarray, after: State) -> np.ndarray:
    return _arrived(after).astype(float)
