"""Minari data sets: written whole or not at all, read in the order of their episodes, defects in one line."""

import errno
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from data_tools import error_of
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from minari.storage.remotes import _registry
from minari.storage.remotes.cloud_storage import CloudStorage

from diffjax.data.goals import flatten_goal_observation, flatten_kitchen_observation
from diffjax.data.load import load_dataset
from diffjax.data.minari_folders import minari_exists
from diffjax.data.minari_store import Episode, write_minari
from diffjax.envs.goal_observation import KITCHEN_ELEMENTS
from diffjax.types import Spec

SPEC = Spec(observation_dim=3, action_dim=2)
ID = "diffjax/toy/medium-v0"


class FolderStorage(CloudStorage):
    """A remote that is a folder of this machine."""

    def __init__(self, name: str, token: str | None = None) -> None:
        self.folder = Path(name)

    def list_datasets(self, prefix: str | None = None) -> list[str]:
        found = self.folder.glob("**/data/metadata.json")
        ids = (path.parent.parent.relative_to(self.folder).as_posix() for path in found)
        return [dataset_id for dataset_id in ids if dataset_id.startswith(prefix or "")]

    def get_dataset_metadata(self, dataset_id: str) -> dict:
        return json.loads((self.folder / dataset_id / "data" / "metadata.json").read_text())

    def download_dataset(self, dataset_id: str, path: Path) -> None:
        shutil.copytree(self.folder / dataset_id, path / dataset_id)

    def list_namespaces(self) -> list[str]:
        return [
            path.parent.relative_to(self.folder).as_posix() for path in self.folder.glob("**/namespace_metadata.json")
        ]

    def download_namespace_metadata(self, namespace: str, path: Path) -> None:
        (path / namespace).mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / namespace / "namespace_metadata.json", path / namespace)

    def upload_dataset(self, dataset_id: str) -> None:
        raise NotImplementedError

    def upload_namespace(self, namespace: str) -> None:
        raise NotImplementedError


@pytest.fixture
def remote(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "remote"
    folder.mkdir()
    monkeypatch.setitem(_registry, "file", lambda: FolderStorage)
    monkeypatch.setenv("MINARI_REMOTE", f"file://{folder}")
    return folder


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch, remote) -> Path:
    folder = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


def episode(index: int, steps: int, terminal: bool = True) -> Episode:
    """Observations and rewards that tell the episode (hundreds) and the step."""
    count = np.arange(steps + 1, dtype=np.float32)
    return Episode(
        observation=100 * index + count[:, None] + np.array([0.0, 0.1, 0.2], np.float32),
        action=np.full((steps, 2), (index + 1) / 100, np.float32),
        reward=100 * index + count[:-1],
        terminal=terminal,
        seed=index,
    )


def store(dataset_id=ID, episodes=None, **keywords) -> Path:
    keywords = {"env_id": "diffjax/Toy", "algorithm": "by hand", "description": "a test"} | keywords
    return write_minari(dataset_id, episodes or [episode(0, 2), episode(1, 3, False)], **keywords)


def everything(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def test_rows_of_two_episodes():
    store(ref_min=-1.0, ref_max=3.5)
    dataset = load_dataset(ID, SPEC)
    observation, action, reward, terminal, end, row, next_observation = dataset.transitions
    # Two steps that end in a terminal, three cut by a time limit; each with its final observation.
    assert observation[:, 0].tolist() == [0, 1, 2, 100, 101, 102, 103]
    assert action[:, 1].tolist() == pytest.approx([0.01, 0.01, 0, 0.02, 0.02, 0.02, 0])
    assert reward.tolist() == [0, 1, 0, 100, 101, 102, 0]
    assert terminal.tolist() == [False, True, False, False, False, False, False]
    assert row.tolist() == [0, 1, 3, 4, 5]
    assert end.tolist() == [False, False, True, False, False, False, True]
    assert next_observation is None
    assert [leaf.dtype for leaf in (observation, action, reward, terminal, end, row)] == [
        np.float32,
        np.float32,
        np.float32,
        bool,
        bool,
        np.int32,
    ]
    assert dataset.episode_returns.tolist() == [1.0, 303.0]
    assert (dataset.label, dataset.source, dataset.env_id) == (ID, ID, "diffjax/Toy")
    assert (dataset.ref_min, dataset.ref_max) == (-1.0, 3.5)


def test_more_than_ten_episodes_keep_their_order():
    store(episodes=[episode(index, 1 + index % 3) for index in range(23)])
    transitions = load_dataset(ID).transitions
    assert (np.diff(transitions.observation[:, 0]) > 0).all()
    assert (np.diff(transitions.reward[transitions.row]) > 0).all()


def test_a_folder_reads_like_its_id(root):
    folder = store()
    assert folder == root / ID
    by_id = load_dataset(ID)
    for path in (folder, folder / "data"):
        dataset = load_dataset(str(path), SPEC)
        assert (dataset.fingerprint, dataset.label) == (by_id.fingerprint, ID)
    assert load_dataset(ID, label="mini").label == "mini"


def test_minari_itself_reads_what_is_written(root):
    store(ref_min=0.0, ref_max=50.0, provenance={"seed": 3}, env_id="Pendulum-v1")
    assert list(minari.list_local_datasets()) == [ID]
    dataset = minari.load_dataset(ID)
    assert (dataset.total_episodes, dataset.total_steps) == (2, 5)
    assert dataset.env_spec.id == "Pendulum-v1"
    assert minari.get_normalized_score(dataset, np.array([25.0])) == pytest.approx([0.5])
    assert dataset[1].truncations.tolist() == [False, False, True]
    metadata = json.loads((root / ID / "data" / "metadata.json").read_text())
    assert metadata["provenance"] == {"seed": 3}
    assert metadata["algorithm_name"] == "by hand"
    assert load_dataset(ID).env_id == "Pendulum-v1"


def test_what_minari_writes_is_read():
    """Float64 arrays, an environment specification, no reference returns."""
    buffer = EpisodeBuffer(
        observations=np.linspace(0, 1, 9).reshape(3, 3),
        actions=np.zeros((2, 2)),
        rewards=np.ones(2),
        terminations=np.array([False, False]),
        truncations=np.array([False, True]),
        infos={"qpos": np.zeros((3, 4))},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        minari.create_dataset_from_buffers(
            "toy-v3",
            [buffer],
            env=gymnasium.spec("Pendulum-v1"),
            observation_space=gymnasium.spaces.Box(-1, 1, (3,), np.float64),
            action_space=gymnasium.spaces.Box(-1, 1, (2,), np.float64),
        )
    dataset = load_dataset("toy-v3", SPEC)
    assert dataset.transitions.observation.dtype == np.float32
    assert dataset.transitions.observation.ravel().tolist() == pytest.approx(np.linspace(0, 1, 9).tolist())
    assert (dataset.env_id, dataset.ref_min, dataset.ref_max) == ("Pendulum-v1", None, None)


def test_writing_leaves_nothing_else_behind(root):
    store()
    below = {"data", "data/main_data.hdf5", "data/metadata.json"}
    assert everything(root) == {
        "diffjax",
        "diffjax/namespace_metadata.json",
        "diffjax/toy",
        "diffjax/toy/namespace_metadata.json",
        ID,
        *(f"{ID}/{name}" for name in below),
    }
    assert os.environ["MINARI_DATASETS_PATH"] == str(root)


def test_the_default_root_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store() == tmp_path / ".minari" / "datasets" / ID
    assert load_dataset(ID).transitions.row.size == 5
    assert "MINARI_DATASETS_PATH" not in os.environ


def test_an_id_is_never_overwritten():
    store()
    before = load_dataset(ID).fingerprint
    assert f"{ID}: is already stored" in error_of(store, episodes=[episode(5, 4)])
    assert store(episodes=[episode(5, 4)], exist_ok=True).name == "medium-v0"
    assert load_dataset(ID).fingerprint == before


def test_a_failed_write_leaves_nothing(root, monkeypatch):
    def full(self, episodes):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("minari.dataset._storages.hdf5_storage.HDF5Storage.update_episodes", full)
    message = error_of(store)
    assert message.startswith(f"{ID}: cannot be written under {root}")
    assert "No space left" in message
    assert everything(root) == set()
    assert not minari_exists(ID)


def test_a_half_written_data_set_is_named_and_replaced(root):
    # What a process killed while Minari writes leaves behind.
    (root / ID / "data").mkdir(parents=True)
    space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    storage = MinariStorage.new(root / ID / "data", space, space)
    storage.update_metadata({"dataset_id": ID})
    assert not minari_exists(ID)
    assert error_of(load_dataset, ID) == (
        f"{ID}: holds no episodes (half-written); delete the folder and make it again"
    )
    store()
    assert minari_exists(ID)
    assert load_dataset(ID).transitions.row.size == 5
    assert [path for path in everything(root) if path.startswith(".")] == []


def test_a_folder_with_other_things_is_left_alone(root):
    (root / ID).mkdir(parents=True)
    (root / ID / "thesis.txt").write_text("irreplaceable")
    assert "holds something else" in error_of(store)
    assert (root / ID / "thesis.txt").read_text() == "irreplaceable"


@pytest.mark.parametrize("exist_ok", [True, False])
def test_whoever_is_first_stays(root, tmp_path, monkeypatch, exist_ok):
    """Another process finishes the same data set while this one writes."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "other"))
    theirs = store(episodes=[episode(7, 4)])
    fingerprint = load_dataset(ID).fingerprint
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    create = minari.create_dataset_from_buffers

    def overtaken(*args, **keywords):
        hidden = Path(os.environ["MINARI_DATASETS_PATH"])
        assert hidden.parent == root  # one file system, so that the rename is one step
        assert hidden.name.startswith(".")
        shutil.copytree(theirs, root / ID)
        return create(*args, **keywords)

    monkeypatch.setattr(minari, "create_dataset_from_buffers", overtaken)
    if exist_ok:
        assert store(exist_ok=True) == root / ID
    else:
        assert "is already stored" in error_of(store)
    assert load_dataset(ID).fingerprint == fingerprint
    assert [path for path in everything(root) if path.startswith(".")] == []


WRITER = f"""
import sys, time
import numpy as np
from diffjax.data.minari_store import Episode, write_minari
value = float(sys.argv[1])
one = Episode(np.full((5, 3), value), np.full((4, 2), value / 10), np.full(4, value), True, 0)
print("ready", flush=True)
sys.stdin.readline()
write_minari({ID!r}, [one] * 200, env_id="E", algorithm="a", description="d", exist_ok=True)
"""


def test_two_processes_at_once(root):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, value],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        for value in ("1", "2")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    transitions = load_dataset(ID, SPEC).transitions
    assert transitions.row.size == 800
    assert len(np.unique(transitions.observation)) == 1  # one writer's data, whole
    assert [path for path in everything(root) if path.startswith(".")] == []


@pytest.mark.parametrize(
    ("change", "defect"),
    [
        ({"observation": np.zeros((3, 3))}, "has 3 observations, 3 actions, 3 rewards and 3 terminations"),
        ({"action": np.zeros((2, 2))}, "has 4 observations, 2 actions"),
        ({"observation": np.zeros(4)}, "'observations' has shape (4,); (steps, observation_dim) is needed"),
        ({"reward": np.zeros((3, 1))}, "'rewards' has shape (3, 1); (steps,) is needed"),
        ({"observation": np.zeros((4, 5))}, "differs in size from episode 0"),
        ({"action": np.full((3, 2), 1.1)}, "'actions' reach 1.1 in size at step 0"),
        (
            {"reward": np.array([0, np.nan, 0])},
            "'rewards' holds NaN or infinity (in float32), first at step 1",
        ),
        ({"action": np.full((3, 2), "left")}, "'actions' has dtype <U4"),
    ],
)
def test_malformed_episodes_are_not_written(root, change, defect):
    message = error_of(store, episodes=[episode(0, 2), episode(1, 3)._replace(**change)])
    assert message.startswith(f"{ID}: episode 1")
    assert defect in message
    assert not root.exists()


def test_empty_data_are_not_written():
    assert "no episode to store" in error_of(write_minari, ID, [], env_id="E", algorithm="a", description="d")
    none = Episode(np.zeros((1, 3)), np.zeros((0, 2)), np.zeros(0), False)
    assert "episode 0: has no steps" in error_of(store, episodes=[none])


@pytest.mark.parametrize("dataset_id", ["toy", "toy/medium", "a b/c-v0", "../toy-v0", "/toy-v0", "x/toy-v0", ""])
def test_malformed_ids(dataset_id):
    assert "an id reads namespace/name-v0" in error_of(store, dataset_id)


def test_missing_data_sets_are_answered_with_what_is_there(root, tmp_path):
    message = error_of(load_dataset, "D4RL/pen/human-v2")
    assert message.startswith(
        f"D4RL/pen/human-v2: no such Minari data set under {root} (MINARI_DATASETS_PATH), and Minari cannot fetch it "
        "(ValueError: Couldn't find any version for dataset D4RL/pen/human"
    )
    assert "run 'minari download D4RL/pen/human-v2' where there is a network and copy its folder there" in message
    assert message.endswith("; stored here: none")
    assert not root.exists()  # looking creates nothing
    store()
    assert error_of(load_dataset, "diffjax/toy/medium-v1").endswith(f"; stored here: {ID}")
    assert "no such file" in error_of(load_dataset, str(tmp_path / "nothing" / "toy-v0"))
    assert "neither a file nor a Minari id" in error_of(load_dataset, "hopper")


# Remotes


def publish(remote: Path, monkeypatch, **keywords) -> str:
    """Put the data set on the remote; return its fingerprint."""
    with monkeypatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(remote))
        store(**keywords)
        return load_dataset(ID).fingerprint


def test_what_is_not_stored_is_fetched(root, remote, monkeypatch, capfd):
    fingerprint = publish(remote, monkeypatch)
    assert load_dataset(ID, SPEC).fingerprint == fingerprint
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.startswith(f"{ID}: is not stored under {root}; fetching it with Minari\n")
    assert everything(root) == everything(remote)
    shutil.rmtree(remote)
    assert load_dataset(ID, SPEC).fingerprint == fingerprint
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "failure",
    [
        FileNotFoundError("no such repository"),
        ImportError("huggingface_hub is not installed"),
        ConnectionError("no route\nto host"),
        RuntimeError("of an HTTP library"),
    ],
)
def test_failed_fetches_are_one_line(root, remote, monkeypatch, failure):
    publish(remote, monkeypatch)

    def fail(self, dataset_id, path):
        (path / dataset_id).mkdir(parents=True, exist_ok=True)
        raise failure

    monkeypatch.setattr(FolderStorage, "download_dataset", fail)
    message = error_of(load_dataset, ID)
    assert message.startswith(f"{ID}: no such Minari data set under {root}")
    assert f"({type(failure).__name__}: {' '.join(str(failure).split())})" in message
    assert not root.exists()


def test_a_remote_that_does_not_answer_is_asked_once(root, monkeypatch, capfd):
    asked = []

    def no_answer(request, timeout):
        asked.append(request.full_url)
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as users have it
    monkeypatch.setenv("MINARI_REMOTE", "hf://somebody")
    monkeypatch.setattr(urllib.request, "urlopen", no_answer)
    message = error_of(load_dataset, ID)
    assert "(ConnectionError: " in message
    assert "does not answer: [Errno -2] Name or service not known" in message
    assert len(asked) == 1
    assert capfd.readouterr() == ("", "")
    assert not root.exists()


def test_an_interrupted_fetch_leaves_nothing(root, remote, monkeypatch):
    publish(remote, monkeypatch)

    def interrupt(self, dataset_id, path):
        (path / dataset_id / "data").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(FolderStorage, "download_dataset", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(ID)
    assert everything(root) == set()
    assert os.environ["MINARI_DATASETS_PATH"] == str(root)


# Goals


def goal_space(**sizes: int) -> gymnasium.spaces.Dict:
    return gymnasium.spaces.Dict(
        {key: gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64) for key, size in sizes.items()}
    )


def store_goals(space: gymnasium.spaces.Dict, observations: dict, action_dim: int) -> None:
    steps = len(observations["observation"]) - 1
    buffer = EpisodeBuffer(
        observations=observations,
        actions=np.zeros((steps, action_dim)),
        rewards=np.ones(steps),
        terminations=np.zeros(steps, bool),
        truncations=np.arange(steps) == steps - 1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        minari.create_dataset_from_buffers(
            "goals-v0",
            [buffer],
            observation_space=space,
            action_space=gymnasium.spaces.Box(-1, 1, (action_dim,), np.float64),
        )


def test_goal_observations_are_flattened():
    observations = {
        "observation": np.arange(12.0).reshape(3, 4),
        "achieved_goal": 100 + np.arange(6.0).reshape(3, 2),
        "desired_goal": 200 + np.arange(6.0).reshape(3, 2),
    }
    store_goals(goal_space(achieved_goal=2, desired_goal=2, observation=4), observations, action_dim=2)
    transitions = load_dataset("goals-v0", Spec(observation_dim=8, action_dim=2)).transitions
    assert transitions.observation.tolist() == [
        [100, 101, 0, 1, 2, 3, 200, 201],
        [102, 103, 4, 5, 6, 7, 202, 203],
        [104, 105, 8, 9, 10, 11, 204, 205],
    ]


def test_kitchen_observations_are_d4rls():
    """The robot's 9 positions, the objects' 21, and the goal at the places of the tasks."""
    goals = {"microwave": [-0.75], "light switch": [-0.69, -0.05]}
    space = {key: gymnasium.spaces.Box(-np.inf, np.inf, (len(goal),), np.float64) for key, goal in goals.items()}
    observations = {
        "observation": np.stack([np.arange(59.0), 100 + np.arange(59.0)]),
        "achieved_goal": {key: np.zeros((2, len(goal))) for key, goal in goals.items()},
        "desired_goal": {key: np.tile(goal, (2, 1)) for key, goal in goals.items()},
    }
    dictionary = gymnasium.spaces.Dict(
        {
            "achieved_goal": gymnasium.spaces.Dict(space),
            "desired_goal": gymnasium.spaces.Dict(space),
            "observation": gymnasium.spaces.Box(-np.inf, np.inf, (59,), np.float64),
        }
    )
    store_goals(dictionary, observations, action_dim=9)
    observation = load_dataset("goals-v0", Spec(observation_dim=60, action_dim=9)).transitions.observation
    expected = [*range(9), *range(18, 39), *[0.0] * 30]
    expected[30 + 17], expected[30 + 18], expected[30 + 22] = -0.69, -0.05, -0.75
    assert observation[0].tolist() == pytest.approx(expected)
    assert observation[1, :30].tolist() == [100 + value for value in expected[:30]]


def test_kitchen_goals_lie_where_the_simulator_has_them():
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_INDICES

    assert {task: places.tolist() for task, places in OBS_ELEMENT_INDICES.items()} == {
        task: list(places) for task, places in KITCHEN_ELEMENTS.items()
    }


def test_flattening_one_observation():
    assert flatten_goal_observation(np.array([1.0]), np.array([2.0, 3.0]), np.array([4.0])).tolist() == [1, 2, 3, 4]
    flat = flatten_kitchen_observation(np.arange(59.0), {"kettle": np.arange(7.0) + 0.5})
    assert flat.shape == (60,)
    assert flat[53:].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    assert flat[30:53].tolist() == [0.0] * 23


@pytest.mark.parametrize(
    ("change", "defect"),
    [
        ({"desired_goal/kettle": np.zeros((2, 6))}, "the goal of 'kettle' has size 6; 7 is needed"),
        ({"observation": np.zeros((2, 60))}, "Kitchen observations have size 60; 59 is needed"),
        ({"observation": np.zeros((3, 59))}, "(ValueError: "),
    ],
)
def test_malformed_goals_are_one_line(root, change, defect):
    kettle = gymnasium.spaces.Dict({"kettle": gymnasium.spaces.Box(-1, 1, (7,), np.float64)})
    space = gymnasium.spaces.Dict(
        {
            "achieved_goal": kettle,
            "desired_goal": kettle,
            "observation": gymnasium.spaces.Box(-1, 1, (59,), np.float64),
        }
    )
    goal = {"kettle": np.zeros((2, 7))}
    store_goals(space, {"achieved_goal": goal, "desired_goal": goal, "observation": np.zeros((2, 59))}, 9)
    with h5py.File(root / "goals-v0" / "data" / "main_data.hdf5", "a") as file:
        for key, value in change.items():
            del file[f"episode_0/observations/{key}"]
            file[f"episode_0/observations/{key}"] = value
    message = error_of(load_dataset, "goals-v0")
    assert message.startswith("goals-v0: episode 0: its observations cannot be flattened (")
    assert defect in message


def test_folders_without_a_data_set(tmp_path):
    assert "is a folder without a Minari data set" in error_of(load_dataset, str(tmp_path))
    (tmp_path / "hopper.hdf5").touch()
    assert "hopper.hdf5: is not an HDF5 file" in error_of(load_dataset, str(tmp_path))


@pytest.mark.parametrize(
    ("space", "key", "defect"),
    [
        (
            gymnasium.spaces.Dict({"arm": gymnasium.spaces.Box(-1, 1, (3,)), "leg": gymnasium.spaces.Box(-1, 1, (2,))}),
            "action_space",
            "actions are a dictionary (arm, leg); concatenate its entries into one array",
        ),
        (gymnasium.spaces.Discrete(2), "action_space", "actions come from a Discrete space; a Box"),
    ],
)
def test_spaces_that_are_not_flat_boxes(root, space, key, defect):
    path = store() / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata[key] = minari.serialization.serialize_space(space)
    path.write_text(json.dumps(metadata))
    message = error_of(load_dataset, ID)
    assert message.startswith(f"{ID}: ")
    assert defect in message


def damaged(key: str, value) -> None:
    with h5py.File(Path(os.environ["MINARI_DATASETS_PATH"]) / ID / "data" / "main_data.hdf5", "a") as file:
        del file[key]
        if value is not None:
            file[key] = value


@pytest.mark.parametrize(
    ("key", "value", "defect"),
    [
        (
            "episode_1/rewards",
            np.array([0, 1, np.nan]),
            "'rewards' holds NaN or infinity (in float32), first at",
        ),
        ("episode_1/observations", np.full((4, 3), 1e300), "first at episode 1, step 0"),
        ("episode_1/actions", np.full((3, 2), 2.0), "'actions' reach 2 in size at episode 1, step 0"),
        ("episode_1/actions", np.zeros((3, 4)), "episode 1 differs in size from episode 0"),
        ("episode_1/actions", np.zeros((2, 2)), "episode 1: has 4 observations, 2 actions"),
        ("episode_1/observations", np.zeros((3, 3)), "episode 1: has 3 observations, 3 actions"),
        ("episode_1/observations", np.full((4, 3), b"up"), "episode 1: 'observations' has dtype |S2"),
        ("episode_1/terminations", np.full(3, np.nan), "episode 1: 'terminations' holds nan"),
        ("episode_1", None, "Minari cannot read it (KeyError"),
        ("episode_0/rewards", None, "Minari cannot read it (KeyError"),
    ],
)
def test_every_damaged_array_is_one_line(key, value, defect):
    store()
    damaged(key, value)
    message = error_of(load_dataset, ID)
    assert message.startswith(f"{ID}: ")
    assert defect in message


def test_sizes_must_be_the_tasks():
    store()
    assert error_of(load_dataset, ID, Spec(observation_dim=11, action_dim=3)) == (
        f"{ID}: observations have size 3 and actions 2, but the task needs 11 and 3: this is the data of another robot"
    )
    assert "the two arrays are exchanged" in error_of(load_dataset, ID, Spec(2, 3))


def test_steps_must_be_those_the_metadata_count():
    path = store() / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    for counted in (4, 6):
        path.write_text(json.dumps(metadata | {"total_steps": counted}))
        assert f"{ID}: holds 5 steps where its metadata count {counted}" in error_of(load_dataset, ID)


def test_truncated_files():
    folder = store() / "data"
    for name in ("main_data.hdf5", "metadata.json"):
        whole = (folder / name).read_bytes()
        for length in (0, len(whole) // 3, len(whole) - 10):
            (folder / name).write_bytes(whole[:length])
            message = error_of(load_dataset, ID)
            assert message.startswith(f"{ID}: ")
            assert "again" in message
        (folder / name).write_bytes(whole)
    counts = {"dataset_id": ID, "total_episodes": 1, "total_steps": 1 << 31}
    (folder / "metadata.json").write_text(json.dumps(counts))
    assert "holds 2147483649 rows; at most 2147483647 are supported" in error_of(load_dataset, ID)
    (folder / "metadata.json").write_text("[]")
    assert "names no data set" in error_of(load_dataset, ID)
    shutil.rmtree(folder)
    assert "cannot be read" in error_of(load_dataset, ID)
