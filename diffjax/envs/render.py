"""Pictures of an episode as it stands: by MuJoCo's off-screen renderer, by Gymnasium's environments, or drawn here.

The only place that needs Pillow and OpenGL; both are looked for when a picture is asked for.
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from diffjax.envs import pendulum, pointmaze, thrusters
from diffjax.envs.base import VectorSimulator
from diffjax.envs.jax_vector import JaxVector
from diffjax.envs.make import NO_ARGUMENTS, make_vector
from diffjax.errors import UserError, first_line

SIZE = 480
"""Height and width of a picture, in pixels."""
_BACKENDS = ("egl", "osmesa", "glfw")
_PROBE = "import mujoco; context = mujoco.GLContext(8, 8); context.make_current(); context.free()"
_NO_OPENGL = (
    "no off-screen OpenGL is to be had for MuJoCo's renderer; install libegl1 or libosmesa6 (with a driver, such as "
    "libgl1-mesa-dri), or set MUJOCO_GL before it starts"
)
_CAMERAS = ("track", "vil_camera")
_GOAL_RADIUS = 0.5  # m, of the disc that marks a goal: as near as both kinds of maze ask for
_RATE = 20.0  # steps per second of the simulators that are drawn here


def first_picture(env_id: str, kwargs: Mapping[str, Any] = NO_ARGUMENTS, horizon: int | None = None) -> np.ndarray:
    """How an episode begins, ``(height, width, 3)`` uint8; arguments and errors as of :func:`filmed`."""
    scene = filmed(env_id, kwargs, horizon)
    with closing(scene.simulator):
        scene.simulator.reset(np.zeros(1, np.uint32))
        return scene.picture()


class Filmed(NamedTuple):
    """A simulator of one episode, what takes its picture ``(height, width, 3)`` uint8, and its steps per second."""

    simulator: VectorSimulator
    picture: Callable[[], np.ndarray]
    rate: float


def filmed(env_id: str, kwargs: Mapping[str, Any] = NO_ARGUMENTS, horizon: int | None = None) -> Filmed:
    """A simulator that can be filmed; arguments as of :func:`diffjax.envs.make.make_vector`.

    Raises:
      UserError: no off-screen OpenGL is to be had, or the environment cannot be drawn.
    """
    if env_id in _DRAWINGS:
        embedded = make_vector(env_id, 1, kwargs, horizon)
        assert isinstance(embedded, JaxVector)
        draw = _DRAWINGS[env_id]
        return Filmed(embedded, lambda: draw(embedded.state(0)), _RATE)
    _choose_backend()
    simulator: Any = make_vector(env_id, 1, kwargs, horizon)
    if getattr(simulator, "is_mujoco", True):
        return Filmed(simulator, _mujoco_picture(simulator), simulator.steps_per_second)
    simulator.close()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it does not know the mode: the error below says more
            simulator = make_vector(env_id, 1, {**kwargs, "render_mode": "rgb_array"}, horizon)
        simulator.reset(np.zeros(1, np.uint32))
        simulator.picture(0)
    except Exception as error:  # each environment has exceptions of its own
        reason = f'it needs render_mode="rgb_array" ({first_line(error)})'
        raise UserError(f"{env_id} cannot draw itself: {reason}") from None
    return Filmed(simulator, lambda: simulator.picture(0), simulator.steps_per_second)


def _choose_backend() -> None:
    """Let MuJoCo draw off-screen where there is no display; it reads its variable when it is first imported.

    Raises:
      UserError: none of its ways works here.
    """
    if sys.platform != "linux" or os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"):
        return
    for backend in _BACKENDS:
        environment = os.environ | {"MUJOCO_GL": backend}
        probe = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, check=False)
        if probe.returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            return
    raise UserError(_NO_OPENGL)


def _mujoco_picture(simulator: Any) -> Callable[[], np.ndarray]:
    """What renders the first environment of a simulator that has ``mechanics``."""
    import mujoco

    model = simulator.mechanics(0).model
    try:
        renderer = mujoco.Renderer(model, SIZE, SIZE)
    except Exception as error:  # each way of OpenGL has exceptions of its own
        raise UserError(f"{_NO_OPENGL} ({first_line(error)})") from None
    data, camera = mujoco.MjData(model), _camera(model, getattr(simulator, "camera", {}))

    def picture() -> np.ndarray:
        now = simulator.mechanics(0)
        data.qpos[:], data.qvel[:] = now.qpos, now.qvel
        mujoco.mj_forward(model, data)
        renderer.update_scene(data, camera)
        goal = simulator.goal(0) if hasattr(simulator, "goal") else ()
        if len(goal):
            scene = renderer.scene
            disc, size = mujoco.mjtGeom.mjGEOM_CYLINDER, np.array([_GOAL_RADIUS, _GOAL_RADIUS, 0.02])
            place, color = np.array([*goal, 0.0]), np.array([0.8, 0.3, 0.2, 0.8], np.float32)
            mujoco.mjv_initGeom(scene.geoms[scene.ngeom], disc, size, place, np.eye(3).ravel(), color)
            scene.ngeom += 1
        return renderer.render()

    return picture


def _camera(model: Any, wanted: Mapping[str, Any]) -> Any:
    """The model's own camera, by the names that robots' models give it, or a free one from above or as wanted."""
    import mujoco

    is_plane = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
    if model.nlight == 0:  # a bare model: it gets light, and a floor that is told from its walls
        model.vis.headlight.ambient[:] = 0.4
        model.geom_rgba[is_plane, :3] = 0.95
    camera = mujoco.MjvCamera()
    for name in _CAMERAS:
        place = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)
        if place >= 0:
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, place
            return camera
    still = (model.body_weldid[model.geom_bodyid] == 0) & ~is_plane
    places = model.geom_pos[still] if still.any() else model.stat.center[None]
    camera.lookat[:] = (places.min(axis=0) + places.max(axis=0)) / 2
    camera.distance = 1.8 * float(np.ptp(places[:, :2], axis=0).max()) or 1.5 * model.stat.extent
    camera.azimuth, camera.elevation = 90.0, -75.0
    for name, value in wanted.items():
        if isinstance(value, np.ndarray):
            getattr(camera, name)[:] = value
        else:
            setattr(camera, name, value)
    return camera


def _canvas() -> tuple[Any, Any]:
    """An empty picture and what draws on it.

    Raises:
      UserError: Pillow is missing.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise UserError('drawing needs Pillow; install it with pip install "diffjax[video]"') from None
    image = Image.new("RGB", (SIZE, SIZE), "white")
    return image, ImageDraw.Draw(image)


def _ball(draw: Any, place: np.ndarray, radius: float, color: str) -> None:
    draw.ellipse([*(place - radius), *(place + radius)], fill=color)


def draw_pendulum(state: pendulum.State) -> np.ndarray:
    """The rod from its pivot; upright is up."""
    image, draw = _canvas()
    pivot, length = np.full(2, SIZE / 2), 0.4 * SIZE
    tip = pivot + length * np.array([np.sin(state.angle), -np.cos(state.angle)])
    draw.line([*pivot, *tip], fill="#444444", width=SIZE // 40)
    _ball(draw, tip, SIZE / 20, "#c8503c")
    _ball(draw, pivot, SIZE / 60, "black")
    return np.asarray(image)


def draw_pointmaze(state: pointmaze.State) -> np.ndarray:
    """Walls, the goal's disc and the point; y upwards as in the layout's rows, the first at the top."""
    image, draw = _canvas()
    cell = SIZE / max(pointmaze.WALL.shape)
    for row, column in np.argwhere(pointmaze.WALL):
        draw.rectangle([column * cell, row * cell, (column + 1) * cell, (row + 1) * cell], fill="#888888")
    _ball(draw, cell * pointmaze.GOAL, cell * pointmaze.GOAL_RADIUS, "#8cc88c")
    _ball(draw, cell * np.asarray(state.position), cell / 6, "#3c64c8")
    return np.asarray(image)


def draw_craft(state: thrusters.State) -> np.ndarray:
    """The goal in the middle, the craft, and its velocity as a line; y downwards."""
    image, draw = _canvas()
    middle, scale = np.full(2, SIZE / 2), SIZE / (2.2 * thrusters.AREA)
    place = middle + scale * np.asarray(state.position)
    _ball(draw, middle, SIZE / 20, "#8cc88c")
    _ball(draw, place, SIZE / 30, "#3c64c8")
    draw.line([*place, *(place + scale / 2 * np.asarray(state.velocity))], fill="#c8503c", width=SIZE // 80)
    return np.asarray(image)


_DRAWINGS: Mapping[str, Callable[[Any], np.ndarray]] = MappingProxyType(
    {
        pendulum.PENDULUM.name: draw_pendulum,
        pointmaze.POINTMAZE.name: draw_pointmaze,
        **{simulator.name: draw_craft for simulator in thrusters.THRUSTERS},
    }
)
