"""Data of other layouts: many files, robomimic's demonstrations, observations by name, actions in other units."""

from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from data_tools import error_of

from diffjax.data.actions import fit_actions
from diffjax.data.arrays import load_arrays
from diffjax.data.episodes import files_of
from diffjax.data.load import load_dataset
from diffjax.data.npz import load_npz
from diffjax.envs.gym_loop import GymLoop
from diffjax.envs.scaled import ScaledActions
from diffjax.errors import UserError
from diffjax.types import ActionBounds


def recording(first: int, rows: int, terminal: bool) -> dict[str, np.ndarray]:
    """Numbers that count on from ``first``."""
    numbers = np.arange(first, first + rows, dtype=np.float32)
    end = np.zeros(rows, bool)
    end[-1] = terminal
    return {
        "observations/b/speed": np.stack([numbers, -numbers], axis=1),
        "observations/a": numbers + 0.5,
        "actions": np.full((rows, 1), 0.1 * first),
        "rewards": numbers,
        "terminals": end,
    }


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
@pytest.mark.parametrize("as_pattern", [False, True])
def test_many_files_are_one_data_set(tmp_path, suffix, as_pattern):
    """In the order of their numbers; a file's end is an episode's, by a terminal or by a time limit."""
    write(tmp_path / f"run10{suffix}", recording(7, 2, False))
    write(tmp_path / f"run2{suffix}", recording(3, 4, True))
    write(tmp_path / f"run1{suffix}", recording(0, 3, False))
    source = str(tmp_path / f"run*{suffix}") if as_pattern else str(tmp_path)
    dataset = load_dataset(source)
    transitions = dataset.transitions
    np.testing.assert_array_equal(transitions.reward, np.arange(9))
    assert transitions.observation[1].tolist() == [1.5, 1.0, -1.0]  # a, then b/speed
    assert np.flatnonzero(transitions.terminal).tolist() == [6]
    assert np.flatnonzero(transitions.end).tolist() == [2, 6, 8]
    assert transitions.row.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert dataset.episode_returns.tolist() == [3.0, 18.0, 15.0]
    assert dataset.notes == (
        "3 files, one after the other in the order of their names",
        "observations are a (1), b/speed (2), side by side in this order",
    )


def test_a_folder_of_recordings_in_words(tmp_path):
    assert "no file ending in .hdf5" in error_of(load_dataset, str(tmp_path / "*.hdf5"))
    write(tmp_path / "a.hdf5", recording(0, 3, False))
    other = recording(3, 3, False)
    del other["observations/a"]
    write(tmp_path / "b.hdf5", other)
    assert "observations are b/speed (2) in" in error_of(load_dataset, str(tmp_path))
    write(tmp_path / "b.hdf5", recording(3, 3, False) | {"timeouts": np.zeros(3, bool)})
    assert "'timeouts' is in one of" in error_of(load_dataset, str(tmp_path))
    write(tmp_path / "b.hdf5", recording(3, 3, False) | {"actions": np.zeros((3, 2))})
    assert "rows of 'actions' have shape (1,) in" in error_of(load_dataset, str(tmp_path))
    write(tmp_path / "b.hdf5", recording(3, 3, False) | {"observations/picture": np.zeros((3, 4, 4))})
    message = error_of(load_dataset, str(tmp_path))
    assert "observations/picture has shape (3, 4, 4); rows of numbers are needed, no pictures" in message
    write(tmp_path / "b.hdf5", recording(3, 3, False) | {"observations/late": np.zeros(2)})
    assert "differ in length (a 3, b/speed 3, late 2)" in error_of(load_dataset, str(tmp_path))


def test_numbers_in_names_count(tmp_path):
    for name in ("run10.npz", "run9.npz", "run1.npz", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in files_of(str(tmp_path))] == ["run1.npz", "run9.npz", "run10.npz"]


def test_robomimics_demonstrations(tmp_path):
    """Demonstrations by their numbers; done is terminal; observations side by side; next observations agree."""
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        for number in (10, 2):
            group = file.create_group(f"data/demo_{number}")
            position = np.arange(4, dtype=np.float64) + 10 * number
            group["obs/eef"] = position[:, None]
            group["obs/joint"] = np.stack([position, position], 1)
            group["next_obs/eef"] = position[:, None] + 1
            group["next_obs/joint"] = np.stack([position, position], 1) + 1
            group["actions"] = np.full((4, 2), 0.5)
            group["rewards"] = np.array([0.0, 0.0, 0.0, 1.0])
            group["dones"] = np.array([0, 0, 0, 1])
    dataset = load_dataset(str(tmp_path / "demo.hdf5"))
    assert dataset.transitions.observation[:, 0].tolist() == [20, 21, 22, 23, 100, 101, 102, 103]
    assert np.flatnonzero(dataset.transitions.terminal).tolist() == [3, 7]
    assert dataset.episode_returns.tolist() == [1.0, 1.0]
    assert dataset.notes == (
        "2 demonstrations in robomimic's layout, whose 'dones' are terminals",
        "observations are eef (1), joint (2), side by side in this order",
    )


def test_arrays_in_memory_read_like_a_file(tmp_path):
    arrays = recording(0, 5, False) | {"timeouts": np.arange(5) == 2}
    np.savez(tmp_path / "a.npz", **arrays)
    nested = {"observations": {"b": {"speed": arrays["observations/b/speed"]}, "a": arrays["observations/a"]}}
    nested |= {key: array for key, array in arrays.items() if not key.startswith("observations")}
    memory, file = load_arrays(nested), load_npz(str(tmp_path / "a.npz"))
    assert memory.fingerprint == file.fingerprint
    assert memory.source == "arrays in memory"
    with pytest.raises(UserError, match="arrays in memory: has no 'actions'"):
        load_arrays({"observations": np.zeros((3, 2)), "rewards": np.zeros(3), "terminals": np.zeros(3, bool)})


def wide(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Actions from -1 to 3 and from 0 to 8 in two dimensions, and a third that never changes; a last observation."""
    action = np.array([[-1, 8, 2], [3, 0, 2], [1, 4, 2], [0, 2, 2], [0, 0, 0]], np.float32)
    return {
        "observations": np.zeros((5, 1)),
        "actions": action,
        "rewards": np.array([1.0, 1.0, 1.0, 1.0, 0.0]),
        "terminals": np.zeros(5, bool),
        "timeouts": np.arange(5) == 4,
    } | changes


def test_actions_are_refused_clipped_or_scaled():
    dataset = load_arrays(wide())
    message = error_of(fit_actions, dataset, "")
    assert message.startswith(
        "arrays in memory: 'actions' reach 8 in size at row 0; [-1, 1] is learned: --actions=scale"
    )
    clipped = fit_actions(dataset, "clip")
    np.testing.assert_array_equal(clipped.transitions.action[:2], [[-1, 1, 1], [1, 0, 1]])
    assert clipped.action_bounds is None
    assert clipped.notes == ("actions clipped to [-1, 1] in 4 of 5 rows",)
    scaled = fit_actions(dataset, "scale")
    assert scaled.action_bounds == ActionBounds((-1, 0, 2), (3, 8, 2))
    np.testing.assert_allclose(
        scaled.transitions.action, [[-1, 1, 0], [1, -1, 0], [0, 0, 0], [-0.5, -0.5, 0], [0, 0, 0]], atol=1e-7
    )
    assert scaled.notes == ("actions scaled to [-1, 1] from the data's bounds, (-1, 0, 2) to (3, 8, 2)",)
    undone = scaled.action_bounds.in_units(scaled.transitions.action)
    np.testing.assert_allclose(undone[:4], dataset.transitions.action[:4], atol=1e-6)
    assert len({dataset.fingerprint, clipped.fingerprint, scaled.fingerprint}) == 3


def test_actions_are_scaled_from_the_environments_bounds():
    dataset = load_arrays(wide())
    scaled = fit_actions(dataset, "scale", ActionBounds((-4, -8, -2), (4, 8, 2)))
    np.testing.assert_allclose(scaled.transitions.action[0], [-0.25, 1, 1])
    message = error_of(fit_actions, dataset, "scale", ActionBounds((-1, -1, -1), (1, 1, 1)))
    assert "actions lie between -1 and 8, beyond the environment's bounds (-1 to 1) by 7 half ranges" in message
    assert "--actions=clip" in message


class Recorder(gymnasium.Env):
    """Observations by name; it remembers its last action, which lies in units of its own."""

    observation_space = gymnasium.spaces.Dict(
        {"leg": gymnasium.spaces.Box(-9, 9, (1,)), "arm": gymnasium.spaces.Box(-9, 9, (2,))}
    )
    action_space = gymnasium.spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 8.0], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"leg": np.zeros(1), "arm": np.zeros(2)}, {}

    def step(self, action):
        return {"leg": action[:1], "arm": np.array([action[1], -1.0])}, 0.0, False, False, {}


def test_an_environment_gets_actions_in_its_units_and_observations_come_flat():
    gymnasium.register("own/Recorder-v0", entry_point=Recorder, max_episode_steps=5)
    loop = GymLoop("own/Recorder-v0", 1)
    assert (loop.observation_dim, loop.action_dim, loop.version) == (3, 2, "test-layouts")
    assert loop.action_bounds == ActionBounds((-1.0, 0.0), (3.0, 8.0))
    simulator = ScaledActions(loop, loop.action_bounds)
    simulator.reset(np.zeros(1, np.uint32))
    observation, *_ = simulator.step(np.array([[-1.0, 0.5]], np.float32))
    np.testing.assert_allclose(observation, [[6.0, -1.0, -1.0]])  # arm, then leg
    simulator.close()
