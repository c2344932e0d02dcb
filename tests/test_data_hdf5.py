"""D4RL-layout files: the transition rule against a plain loop, labels, and one line for every defect."""

import hashlib
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_tools import error_of
from hypothesis import given
from hypothesis import strategies as st

from diffjax.data.d4rl_files import d4rl_file_named
from diffjax.data.hdf5 import d4rl_label, load_hdf5
from diffjax.data.layout import horizon_timeouts, transition_rows
from diffjax.data.load import load_dataset
from diffjax.data.transitions import Transitions, trajectory_returns
from diffjax.errors import UserError
from diffjax.types import Spec

SPEC = Spec(observation_dim=3, action_dim=2)


def arrays(rows: int = 12) -> dict[str, np.ndarray]:
    """A well-formed file: terminal at row 3, time limit at row 7, an unfinished tail."""
    random = np.random.default_rng(0)
    terminals, timeouts = np.zeros(rows, bool), np.zeros(rows, bool)
    terminals[3:4] = True
    timeouts[7:8] = True
    return {
        "observations": random.normal(size=(rows, 3)).astype(np.float32),
        "actions": random.uniform(-1, 1, size=(rows, 2)).astype(np.float32),
        "rewards": np.arange(rows, dtype=np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def write(path, content, **metadata):
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            file[key] = value
        for key, value in metadata.items():
            file[f"metadata/{key}"] = value
    return str(path)


def qlearning_loop(content, timeouts):
    """D4RL's rule, one row at a time."""
    for i in range(len(content["rewards"]) - 1):
        if not timeouts[i]:
            yield (
                content["observations"][i],
                content["actions"][i],
                content["rewards"][i],
                content["observations"][i + 1],
                content["terminals"][i],
            )


def test_transitions_of_a_small_file(tmp_path):
    content = arrays()
    dataset = load_dataset(write(tmp_path / "a.hdf5", content), SPEC)
    observation, action, reward, terminal, end, row, next_observation = dataset.transitions
    assert next_observation is None
    assert np.flatnonzero(end).tolist() == [3, 7, 11]
    assert row.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
    expected = list(qlearning_loop(content, content["timeouts"]))
    found = zip(observation[row], action[row], reward[row], observation[row + 1], terminal[row], strict=True)
    for mine, theirs in zip(found, expected, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    assert [leaf.dtype for leaf in (observation, action, reward, terminal, end, row)] == [
        np.float32,
        np.float32,
        np.float32,
        bool,
        bool,
        np.int32,
    ]
    # 0+1+2+3 to the terminal, 4+...+7 to the time limit; the tail of rows 8 to 11 is no trajectory.
    assert dataset.episode_returns.tolist() == [6.0, 22.0]


def test_an_unfinished_episode_counts_where_it_is_all_there_is(tmp_path):
    content = arrays(3) | {"terminals": np.zeros(3, bool), "timeouts": np.zeros(3, bool)}
    assert load_hdf5(write(tmp_path / "a.hdf5", content)).episode_returns.tolist() == [3.0]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30))
def test_rows_are_those_of_the_loop(flags):
    timeout = np.array([timeout for _, timeout in flags])
    expected = [i for i in range(len(flags) - 1) if not timeout[i]]
    rows = transition_rows(timeout)
    assert rows.tolist() == expected
    assert rows.dtype == np.int32


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 6))
def test_time_limits_follow_the_horizon(terminal, horizon):
    expected, step = [], 0
    for ended in terminal:
        step += 1
        expected.append(step == horizon)
        if ended or step == horizon:
            step = 0
    assert horizon_timeouts(np.array(terminal), horizon).tolist() == expected


def test_a_file_without_timeouts_needs_the_horizon(tmp_path):
    content = arrays()
    del content["timeouts"]
    source = write(tmp_path / "a.hdf5", content)
    assert error_of(load_dataset, source, SPEC) == (
        f"{source}: has no 'timeouts'; the horizon of its task is needed to know where episodes end"
    )
    # Episodes: rows 0-3 (terminal), 4-8 and 9-11 under a horizon of 5.
    dataset = load_dataset(source, SPEC, horizon=5)
    assert dataset.transitions.row.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10]
    assert dataset.episode_returns.tolist() == [6.0, 30.0]


def test_old_dtypes_and_columns_read_the_same(tmp_path):
    content = arrays()
    new = load_hdf5(write(tmp_path / "new.hdf5", content))
    old = {key: value.astype(np.float64) for key, value in content.items()}
    old |= {key: old[key][:, None] for key in ("rewards", "terminals", "timeouts")}
    old["rewards"] = old["rewards"].astype(np.int64)
    read = load_hdf5(write(tmp_path / "old.hdf5", old)).transitions
    for kept, again in zip(new.transitions[:-1], read[:-1], strict=True):
        assert kept.dtype == again.dtype
        np.testing.assert_array_equal(kept, again)


def test_compressed_chunks_and_byte_order_do_not_matter(tmp_path):
    content = arrays()
    plain = load_hdf5(write(tmp_path / "plain.hdf5", content))
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        for key, value in content.items():
            swapped = value if value.dtype == bool else value.astype(value.dtype.newbyteorder(">"))
            file.create_dataset(key, data=swapped, chunks=True, compression="gzip")
    assert load_hdf5(str(tmp_path / "packed.h5")).fingerprint == plain.fingerprint


def test_fingerprint_is_the_hash_of_shapes_dtypes_and_bytes(tmp_path):
    dataset = load_hdf5(write(tmp_path / "a.hdf5", arrays()))
    text = b""
    data = dataset.transitions
    for leaf in (data.observation, data.action, data.reward, data.terminal, data.row):
        text += f"{leaf.shape}{leaf.dtype.str}".encode() + leaf.tobytes()
    assert dataset.fingerprint == hashlib.sha256(text).hexdigest()[:16]


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminals", "timeouts"])
def test_fingerprint_sees_every_array(tmp_path, key):
    content = arrays()
    before = load_hdf5(write(tmp_path / "a.hdf5", content)).fingerprint
    content[key].flat[5] = not content[key].flat[5] if content[key].dtype == bool else content[key].flat[5] / 2
    assert load_hdf5(write(tmp_path / "b.hdf5", content)).fingerprint != before


MEASURE = """
import os, resource, subprocess, sys
from pathlib import Path
from diffjax.data.load import load_dataset

def resident():
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    return 1024 * int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())]))

def largest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

load_dataset(sys.argv[1])  # imports what is needed
before, before_largest = resident(), largest()
dataset = load_dataset(sys.argv[2])
size = sum(leaf.nbytes for leaf in dataset.transitions if leaf is not None)
print((largest() - before_largest) / size, (resident() - before) / size)
"""


# What has been converted leaves holes that the allocator keeps for a while.
@pytest.mark.parametrize(("dtype", "largest_after"), [(np.float32, 1.15), (np.float64, 1.5)])
def test_reading_needs_little_more_memory_than_the_result(tmp_path, dtype, largest_after):
    rows = 600_000
    with h5py.File(tmp_path / "big.hdf5", "w") as file:
        for key, columns in {"observations": (17,), "actions": (6,), "rewards": ()}.items():
            # Random tables are slow to compress and the values do not matter.
            file.create_dataset(key, data=np.ones((rows, *columns), dtype), compression="gzip", compression_opts=1)
        for key in ("terminals", "timeouts"):
            file.create_dataset(key, data=np.zeros(rows, bool), compression="gzip")
    small = write(tmp_path / "small.hdf5", arrays())
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, small, str(tmp_path / "big.hdf5")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    peak, after = map(float, measured.stdout.split())
    assert peak < 2.2
    assert after < largest_after


def test_returns_of_trajectories():
    reward = np.array([1, 2, 4, 8], np.float32)
    for end, expected in (([0, 1, 0, 1], [3, 12]), ([0, 1, 0, 0], [3, 12]), ([1, 1, 1, 1], [1, 2, 4, 8])):
        assert trajectory_returns(reward, np.array(end, bool)).tolist() == expected


# Labels


@pytest.mark.parametrize(
    ("algorithm", "label"),
    [
        (b"published policy snapshot rollouts", "snapshot"),
        ("SAC", "SAC"),
        ("human demonstrations (25), replayed", "human demonstrations"),
        ("(nothing)", "unlabelled"),
        (np.bytes_(b"two\nlines  here"), "two lines here"),
        ("D4RL v2", "unlabelled"),
        ("", "unlabelled"),
        (3, "unlabelled"),
        (np.array([1.0, 2.0]), "unlabelled"),
    ],
)
def test_a_file_carries_its_own_label(tmp_path, algorithm, label):
    source = write(tmp_path / "hopper_medium-v2.hdf5", arrays(), algorithm=algorithm)
    assert load_dataset(source).label == label


def test_without_metadata_a_file_is_unlabelled(tmp_path):
    dataset = load_dataset(write(tmp_path / "hopper_medium-v2.hdf5", arrays()))
    assert (dataset.label, dataset.env_id, dataset.ref_min, dataset.ref_max) == (
        "unlabelled",
        None,
        None,
        None,
    )


def test_metadata_name_the_environment_and_reference_returns(tmp_path):
    metadata = {"env_id": b"Hopper-v4", "ref_min_score": -1.5, "ref_max_score": np.float32(20)}
    dataset = load_dataset(write(tmp_path / "a.hdf5", arrays(), **metadata))
    assert (dataset.env_id, dataset.ref_min, dataset.ref_max) == ("Hopper-v4", -1.5, 20.0)


def test_the_caller_may_name_a_data_set(tmp_path):
    source = write(tmp_path / "a.hdf5", arrays(), algorithm="SAC")
    assert load_dataset(source, SPEC, "mine").label == "mine"


def hopper(rows: int = 6) -> dict[str, np.ndarray]:
    """What D4RL's hopper v2 files hold, in small."""
    sizes = {"observations": 11, "actions": 3, "next_observations": 11, "infos/qpos": 6, "infos/qvel": 6}
    content = {key: np.ones((rows, size), np.float32) for key, size in sizes.items()}
    content |= {"rewards": np.zeros(rows, np.float32)}
    return content | {key: np.zeros(rows, bool) for key in ("terminals", "timeouts")}


def test_d4rl_by_name_keys_and_shapes(tmp_path):
    source = write(tmp_path / "hopper_medium_replay-v2.hdf5", hopper(), algorithm="SAC")
    assert load_dataset(source).label == "SAC"
    assert load_dataset(source, dataset_source="d4rl").label == "D4RL v2"
    assert d4rl_label(source, "hopper-medium-replay-v2") == "D4RL v2"
    message = error_of(load_dataset, source, dataset_source="d4rl", task_id="hopper-medium-v2")
    assert message == f"{source}: this is D4RL's file of hopper-medium-replay-v2, not of hopper-medium-v2"


def test_a_file_named_like_d4rls_is_told_how_to_count_as_such(tmp_path):
    source = write(tmp_path / "hopper_medium-v2.hdf5", hopper())
    lines = []
    assert load_dataset(source, task_id="hopper-medium-v2", report=lines.append).label == "unlabelled"
    assert lines[-1] == (
        f"note: {source}: agrees with D4RL's file of that name; if it is that file, say --dataset_source=d4rl (D4RL v2)"
    )
    lines.clear()
    load_dataset(source, dataset_source="d4rl", report=lines.append)
    assert [line[: len(source) + 11] for line in lines] == [f"{source}: 'D4RL v2'"]
    content = hopper()
    del content["infos/qpos"]
    load_dataset(write(tmp_path / "walker2d_medium-v2.hdf5", content), report=lines.append)
    assert lines[-1].endswith("is not D4RL's file of walker2d-medium-v2: it lacks 'infos/qpos'")


@pytest.mark.parametrize(
    ("name", "change", "defect"),
    [
        ("hopper_medium-v2.hdf5", {"infos/qpos": None}, "it lacks 'infos/qpos'"),
        ("hopper_medium-v2.hdf5", {"next_observations": None}, "it lacks 'next_observations'"),
        ("hopper_medium-v2.hdf5", {"observations": np.zeros((6, 17))}, r"'observations' have shape \(17,\)"),
        ("hopper_medium-v2.hdf5", {"metadata/algorithm": "published policy snapshot rollouts"}, "'snapshot'"),
        ("hopper_medium-snapshot.hdf5", {}, "not the name of a D4RL file"),
        ("walker2d_medium-v2.hdf5", {}, "walker2d-medium-v2"),
    ],
)
def test_d4rl_is_refused_where_the_file_differs(tmp_path, name, change, defect):
    content = {key: value for key, value in (hopper() | change).items() if value is not None}
    source = write(tmp_path / name, content)
    with pytest.raises(UserError, match=f"{name}: .*{defect}.*leave out the dataset source"):
        load_dataset(source, dataset_source="d4rl")


def test_d4rl_files_by_name():
    ant = "Ant_maze"
    tasks = {
        "halfcheetah_medium_expert-v2.hdf5": "halfcheetah-medium-expert-v2",
        "ant_random-v2.hdf5": "ant-random-v2",
        "pen-human-v1.hdf5": "pen-human-v1",
        f"{ant}_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5": "antmaze-umaze-v0",
        f"{ant}_big-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5": "antmaze-medium-diverse-v2",
        f"{ant}_hardest-maze_noisy_multistart_True_multigoal_False_sparse.hdf5": "antmaze-large-play-v0",
        "maze2d-umaze-sparse-v1.hdf5": "maze2d-umaze-v1",
        "maze2d-large-dense-v1.hdf5": "maze2d-large-dense-v1",
        "maze2d-open-sparse.hdf5": "maze2d-open-v0",
        "mini_kitchen_microwave_kettle_light_slider-v0.hdf5": "kitchen-complete-v0",
    }
    for name, task_id in tasks.items():
        published = d4rl_file_named(name)
        assert published is not None
        assert published.task_id == task_id
    for name in (
        "hopper_medium.hdf5",
        "hopper_medium-v2.h5",
        "hopper_better-v2.hdf5",
        "maze2d-open-sparse-v1.hdf5",
    ):
        assert d4rl_file_named(name) is None


def test_kitchen_files_record_no_timeouts(tmp_path):
    content = {
        "observations": np.ones((4, 60)),
        "actions": np.zeros((4, 9)),
        "rewards": np.zeros(4),
        "terminals": np.zeros((4, 1)),
    }
    source = write(tmp_path / "mini_kitchen_microwave_kettle_light_slider-v0.hdf5", content)
    dataset = load_dataset(source, horizon=280, dataset_source="d4rl", task_id="kitchen-complete-v0")
    assert dataset.label == "D4RL v0"


def test_dataset_source_is_checked(tmp_path):
    source = write(tmp_path / "a.hdf5", arrays())
    assert "dataset source 'D4RL' is unknown" in error_of(load_dataset, source, dataset_source="D4RL")
    assert "needs the path of a D4RL HDF5 file" in error_of(load_dataset, "D4RL/pen/human-v2", dataset_source="d4rl")


# Values


def test_truncated_anywhere(tmp_path):
    whole = write(tmp_path / "whole.hdf5", arrays(2000))
    content = (tmp_path / "whole.hdf5").read_bytes()
    assert load_dataset(whole).transitions.row.size == 1998
    for length in np.linspace(0, len(content) - 1, 25).astype(int):
        source = str(tmp_path / "cut.hdf5")
        (tmp_path / "cut.hdf5").write_bytes(content[:length])
        message = error_of(load_dataset, source)
        assert message.startswith(f"{source}: is ")
        assert "truncated HDF5 file" in message or "not an HDF5 file" in message


def test_actions_may_pass_the_limit_by_rounding(tmp_path):
    content = arrays()
    content["actions"][4, 1] = 1.000005
    dataset = load_dataset(write(tmp_path / "a.hdf5", content), SPEC)
    assert dataset.transitions.action[4, 1] == np.float32(1.000005)  # stored as recorded


def test_a_defect_deep_in_a_long_file_is_found(tmp_path):
    content = arrays(150_000)
    content["rewards"][140_001] = np.nan
    assert "'rewards' holds NaN or infinity (in float32), first at row 140001" in error_of(
        load_dataset, write(tmp_path / "a.hdf5", content)
    )
    content["rewards"][140_001] = 0
    content["actions"][131_073, 1] = 3
    assert "'actions' reach 3 in size at row 131073" in error_of(load_dataset, write(tmp_path / "b.hdf5", content))


def test_transitions_are_a_pytree(tmp_path):
    import jax

    transitions = load_dataset(write(tmp_path / "a.hdf5", arrays()), SPEC).transitions
    on_device = jax.tree.map(jax.numpy.asarray, transitions)
    assert isinstance(on_device, Transitions)
    assert on_device.row.dtype == np.int32
