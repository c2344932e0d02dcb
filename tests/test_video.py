"""Films of episodes: what a frame shows, files of both kinds, and a line where a film cannot be made."""

import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from data_tools import random_hdf5
from launcher_tools import REPOSITORY, launch, refused
from PIL import Image

from diffjax.envs import pendulum, pointmaze, render
from diffjax.envs.render import SIZE, filmed
from diffjax.errors import UserError

RED, BLUE, WHITE, GREY = (200, 80, 60), (60, 100, 200), (255, 255, 255), (136, 136, 136)


def test_a_pendulum_is_drawn_as_it_stands():
    upright = render.draw_pendulum(pendulum.State(np.float32(0.0), np.float32(0.0)))
    right = render.draw_pendulum(pendulum.State(np.float32(np.pi / 2), np.float32(0.0)))
    tip = round(0.1 * SIZE)
    assert upright.shape == (SIZE, SIZE, 3)
    assert tuple(upright[tip, SIZE // 2]) == tuple(right[SIZE // 2, SIZE - tip]) == RED
    assert tuple(upright[SIZE - tip, SIZE // 2]) == tuple(right[SIZE // 2, tip]) == WHITE


def test_a_point_is_drawn_in_its_maze():
    picture = render.draw_pointmaze(pointmaze.State(np.array([1.5, 2.5], np.float32)))
    cell = SIZE // 8
    assert tuple(picture[2 * cell + cell // 2, cell + cell // 2]) == BLUE
    assert tuple(picture[cell // 2, cell // 2]) == GREY
    assert tuple(picture[cell + cell // 2, cell + cell // 2]) == WHITE


@pytest.fixture(scope="module")
def swings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("video"), "pendulum-mixed", 3, 1)


def train(folder: Path, task: str, observation_dim: int, action_dim: int) -> Path:
    """Two updates of two seeds of the smallest method."""
    data = random_hdf5(folder / "data.hdf5", observation_dim, action_dim)
    run = launch(
        "experiments/train.py",
        *("--method=bc", f"--task={task}", f"--dataset={data}", f"--out={folder / 'out'}", "--preset=quick"),
        *("--steps=2", "--eval_interval=2", "--episodes=1", "--num_seeds=2", "--set", "hidden_dims=8"),
    )
    assert run.returncode == 0, run.stderr
    return folder / "out"


def test_an_embedded_task_as_gif(swings, tmp_path):
    path = tmp_path / "episode.gif"
    run = launch("experiments/evaluate.py", f"--run={swings}", "--seed=1", f"--video={path}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("an episode of 200 steps, return -")
    with Image.open(path) as film:
        assert film.size == (SIZE, SIZE)
        assert film.n_frames > 20  # frames that are alike are one
        film.seek(1)
        assert film.info["duration"] % 50 == 0  # 20 steps a second
    assert [one.name for one in tmp_path.iterdir()] == ["episode.gif"]


@pytest.mark.slow
def test_a_robot_as_mp4(tmp_path):
    """In a process of its own, as MuJoCo reads how to draw when it is imported. Without OpenGL, a line says so."""
    hopper, path = train(tmp_path, "hopper-medium-v2", 11, 3), tmp_path / "episode.mp4"
    command = [sys.executable, str(REPOSITORY / "experiments" / "evaluate.py"), f"--run={hopper}", "--seed=0"]
    command += [f"--video={path}", f"--out={tmp_path / 'e'}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        refused(run, "no off-screen OpenGL", "MUJOCO_GL")
        return
    assert path.read_bytes()[4:8] == b"ftyp"
    assert path.stat().st_size > 2000
    assert (tmp_path / "e" / "evaluations.csv").is_file()


def test_no_opengl(monkeypatch):
    """Every way is tried, none works."""
    tried = []

    def run(command, env, **_):
        tried.append(env["MUJOCO_GL"])
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(render.subprocess, "run", run)
    monkeypatch.setattr(render.sys, "platform", "linux")
    with pytest.raises(UserError, match="no off-screen OpenGL"):
        filmed("Hopper-v4")
    assert tried == ["egl", "osmesa", "glfw"]
    assert filmed("diffjax/Pendulum").rate == 20.0  # needs none


class Blind(gymnasium.Env):
    """It draws nothing."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))


def test_an_environment_that_cannot_draw_itself(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")  # not what this is about
    gymnasium.register("own/Blind-v0", entry_point=Blind, max_episode_steps=3)
    with pytest.raises(UserError, match=r'own/Blind-v0 cannot draw itself: it needs render_mode="rgb_array"'):
        filmed("own/Blind-v0")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--video=film.avi"], ["--video=film.avi is neither FILE.mp4 nor FILE.gif"]),
        (["--video=no/where.gif"], ["no does not exist"]),
        (["--video=film.gif"], ["one run at one step", "choose --seed"]),
        ([], ["--out=DIR", "--video=FILE"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(swings, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    refused(launch("experiments/evaluate.py", f"--run={swings}", *flags), *words)
    assert not list(tmp_path.iterdir())
