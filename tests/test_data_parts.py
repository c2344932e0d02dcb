"""Several data sets as one, and parts of one: whole episodes, nothing across a seam."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_tools import error_of
from hypothesis import given
from hypothesis import strategies as st

from diffjax.data.filters import first_percent, keep_episodes, top_percent
from diffjax.data.joins import join_datasets
from diffjax.data.load import load_dataset
from diffjax.data.minari_store import Episode, write_minari
from diffjax.data.npz import load_npz
from diffjax.data.rewards import dac_trajectory_ends
from diffjax.data.transitions import Dataset, Transitions, fingerprint, make_dataset
from diffjax.types import Spec

SPEC = Spec(observation_dim=2, action_dim=1)


def content(lengths: list[int], first: float = 0.0, end: str = "terminals", tail: int = 0) -> dict[str, np.ndarray]:
    """Episodes of these lengths, all ended alike, then ``tail`` rows; the observation counts rows from ``first``."""
    rows = sum(lengths) + tail
    last = np.zeros(rows, bool)
    last[np.cumsum(lengths) - 1] = True
    none = np.zeros(rows, bool)
    return {
        "observations": (first + np.arange(rows, dtype=np.float32))[:, None] + np.array([0.0, 0.5], np.float32),
        "actions": np.full((rows, 1), 0.5, np.float32),
        "rewards": first + np.arange(rows, dtype=np.float32),
        "terminals": last if end == "terminals" else none,
        "timeouts": last if end == "timeouts" else none,
    }


def write(path: Path, arrays: dict[str, np.ndarray], **metadata: object) -> str:
    everything = arrays | {f"metadata/{key}": value for key, value in metadata.items()}
    if path.suffix == ".npz":
        np.savez(path, **{key: np.asarray(value) for key, value in everything.items()})
    else:
        with h5py.File(path, "w") as file:
            for key, value in everything.items():
                file[key] = value
    return str(path)


# NumPy archives


def test_an_archive_reads_like_the_hdf5_file(tmp_path):
    arrays = content([3, 4, 2], tail=2)
    metadata = {"algorithm": "SAC", "env_id": "Hopper-v4", "ref_min_score": -1.0, "ref_max_score": 5.0}
    hdf5 = load_dataset(write(tmp_path / "a.hdf5", arrays, **metadata), SPEC)
    npz = load_dataset(write(tmp_path / "a.npz", arrays, **metadata), SPEC)
    assert npz.fingerprint == hdf5.fingerprint
    for dataset in (hdf5, npz):
        assert (dataset.label, dataset.env_id, dataset.ref_min, dataset.ref_max) == ("SAC", "Hopper-v4", -1.0, 5.0)
        assert dataset.episode_rows.tolist() == [[0, 3], [3, 7], [7, 9]]
        assert dataset.episode_returns.tolist() == [3.0, 18.0, 15.0]


def test_a_compressed_archive_without_timeouts(tmp_path):
    arrays = content([3, 4, 2])
    del arrays["timeouts"]
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    assert load_dataset(str(tmp_path / "a.npz"), SPEC, horizon=3).transitions.row.tolist() == [0, 1, 3, 4, 6, 7]
    assert load_npz(str(tmp_path / "a.npz"), horizon=3).label == "unlabelled"


def test_an_archive_is_never_d4rls(tmp_path):
    source = write(tmp_path / "hopper_medium-v2.npz", content([3]))
    assert "needs the path of a D4RL HDF5 file" in error_of(load_dataset, source, dataset_source="d4rl")


# Joins


def test_two_files_as_one(tmp_path):
    a = write(tmp_path / "a.hdf5", content([2, 3], tail=1), algorithm="medium")
    b = write(tmp_path / "b.npz", content([2], first=100, end="timeouts", tail=2), algorithm="expert")
    dataset = load_dataset(f"{a}+{b}", SPEC)
    observation, _, reward, terminal, end, row, _ = dataset.transitions
    # Rows 0 to 5 are a's; 5, its last, and 7, b's time limit, and 9, the last of all, begin no transition.
    assert row.tolist() == [0, 1, 2, 3, 4, 6, 8]
    assert observation[row, 0].tolist() == [0, 1, 2, 3, 4, 100, 102]
    assert observation[row + 1, 0].tolist() == [1, 2, 3, 4, 5, 101, 103]
    assert terminal[row].tolist() == [False, True, False, False, True, False, False]
    assert reward[row].tolist() == [0, 1, 2, 3, 4, 100, 102]
    assert np.flatnonzero(end).tolist() == [1, 4, 5, 7, 9]
    assert row.dtype == np.int32
    assert dataset.episode_returns.tolist() == [1.0, 9.0, 201.0]
    assert dataset.episode_rows.tolist() == [[0, 2], [2, 5], [6, 8]]
    assert (dataset.label, dataset.source) == ("medium+expert", f"{a}+{b}")
    assert dataset.fingerprint == fingerprint(dataset.transitions)
    assert load_dataset(f"{a}+{b}", SPEC, label="mixed").label == "mixed"
    assert load_dataset(f"{a} + {b}").fingerprint == dataset.fingerprint
    assert load_dataset(f"{b}+{a}").fingerprint != dataset.fingerprint


def test_what_all_share_is_kept(tmp_path):
    metadata = {"algorithm": "SAC", "env_id": "Hopper-v4", "ref_min_score": 0.0, "ref_max_score": 9.0}
    a = write(tmp_path / "a.hdf5", content([2, 3]), **metadata)
    b = write(tmp_path / "b.hdf5", content([4]), **metadata | {"ref_max_score": 8.0})
    dataset = load_dataset(f"{a}+{b}+{a}")
    assert (dataset.label, dataset.env_id, dataset.ref_min, dataset.ref_max) == ("SAC", "Hopper-v4", 0.0, None)
    assert dataset.transitions.row.size == 4 + 3 + 4


def test_a_file_and_a_minari_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    steps = Episode(np.full((3, 2), 7.0), np.zeros((2, 1)), np.ones(2), True)
    write_minari("toy/one-v0", [steps, steps], env_id="E", algorithm="a", description="d")
    a = write(tmp_path / "a.hdf5", content([2, 3]))
    dataset = load_dataset(f"toy/one-v0+{a}")
    assert dataset.label == "toy/one-v0+unlabelled"
    assert dataset.transitions.row.tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
    assert dataset.episode_returns.tolist() == [2.0, 2.0, 1.0, 9.0]
    assert dataset.episode_rows.tolist() == [[0, 3], [3, 6], [6, 8], [8, 11]]


def test_trajectories_of_the_published_transforms_end_at_the_seam(tmp_path):
    a = write(tmp_path / "a.hdf5", content([3], end="timeouts", tail=3))
    dataset = load_dataset(f"{a}+{a}")
    assert dataset.transitions.row.tolist() == [0, 1, 3, 4, 6, 7, 9, 10]
    assert dac_trajectory_ends(dataset.transitions).tolist() == [False, True] * 4


def test_joins_that_make_no_sense(tmp_path):
    a = write(tmp_path / "a.hdf5", content([3]), env_id="Walker2d-v4")
    wide = content([3])
    wide["observations"] = np.zeros((3, 5), np.float32)
    b = write(tmp_path / "b.hdf5", wide)
    c = write(tmp_path / "c.hdf5", content([3]), env_id="HalfCheetah-v4")
    d = write(tmp_path / "d.hdf5", content([3]), env_id="Walker2d-v5")
    assert error_of(load_dataset, f"{a}+{b}") == (
        f"{a}+{b}: observations and actions have sizes (2, 1) in {a} and (5, 1) in {b}; "
        "only data of one robot can be joined"
    )
    assert f"{a} is data of Walker2d-v4 and {c} of HalfCheetah-v4" in error_of(load_dataset, f"{a}+{c}")
    assert load_dataset(f"{a}+{d}").env_id is None
    assert error_of(load_dataset, f"{a}+{b}", SPEC).startswith(f"{b}: observations have size 5")
    for source in (f"{a}+", f"+{a}", f"{a}++{a}"):
        assert error_of(load_dataset, source).startswith(f"{source}: a name is missing beside '+'")
    assert error_of(load_dataset, f"{a}+{tmp_path}/gone.hdf5").startswith(f"{tmp_path}/gone.hdf5: no such file")
    assert "is one published file" in error_of(load_dataset, f"{a}+{a}", dataset_source="d4rl")


def test_a_file_with_a_plus_in_its_name(tmp_path):
    source = write(tmp_path / "a+b.hdf5", content([3]))
    assert load_dataset(source).transitions.row.tolist() == [0, 1]


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 5), min_size=1, max_size=4),
            st.sampled_from(["terminals", "timeouts"]),
            st.integers(2, 4),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_join_holds_the_transitions_of_its_parts(parts):
    datasets = [dataset(content(lengths, 1000.0 * i, end, tail)) for i, (lengths, end, tail) in enumerate(parts)]
    whole = join_datasets(datasets)

    def pairs(one: Dataset) -> list[tuple[float, float]]:
        observation, row = one.transitions.observation[:, 0], one.transitions.row
        return list(zip(observation[row].tolist(), observation[row + 1].tolist(), strict=True))

    assert pairs(whole) == [pair for one in datasets for pair in pairs(one)]
    assert all(second == first + 1 for first, second in pairs(whole))
    sums = [float(whole.transitions.reward[begin:end].sum()) for begin, end in whole.episode_rows]
    assert whole.episode_returns.tolist() == sums


# Filters


def dataset(arrays: dict[str, np.ndarray]) -> Dataset:
    timeout = arrays["timeouts"]
    end = arrays["terminals"] | timeout
    is_finished = bool(end[-1])
    end[-1] = True
    transitions = Transitions(
        arrays["observations"],
        arrays["actions"],
        arrays["rewards"],
        arrays["terminals"],
        end,
        np.flatnonzero(~timeout[:-1]).astype(np.int32),
    )
    return make_dataset(transitions, "made", "made", "row {}".format, is_finished)


def rewarded(returns: list[float], end: str = "terminals", tail: int = 0) -> Dataset:
    """Episodes of three rows with these returns, all in the middle row."""
    arrays = content([3] * len(returns), end=end, tail=tail)
    arrays["rewards"] = np.zeros(len(arrays["rewards"]), np.float32)
    arrays["rewards"][1 : 3 * len(returns) : 3] = returns
    return dataset(arrays)


def test_the_best_episodes_are_kept_whole():
    whole = rewarded([5.0, 1.0, 9.0, 3.0, 7.0], end="timeouts", tail=3)
    assert whole.transitions.row.tolist() == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16]
    best = top_percent(whole, 40)
    assert best.transitions.row.tolist() == [6, 7, 12, 13]
    assert best.transitions.row.dtype == np.int32
    assert best.episode_returns.tolist() == [9.0, 7.0]
    assert best.episode_rows.tolist() == [[6, 9], [12, 15]]
    assert best.label == "made top 40%"
    assert best.fingerprint == fingerprint(best.transitions) != whole.fingerprint
    assert best.transitions.observation is whole.transitions.observation
    assert whole.episode_returns.size == 5  # unchanged


def test_the_last_row_of_a_terminal_episode_is_kept():
    assert top_percent(rewarded([1.0, 2.0, 3.0]), 60).transitions.row.tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(("percent", "kept"), [(1, [2]), (10, [2]), (25, [2]), (26, [0, 2]), (99.9, [0, 1, 2, 3])])
def test_how_many_episodes_are_kept(percent, kept):
    """Ten per cent of four episodes is one; the earlier of two equal ones stays."""
    whole = rewarded([5.0, 5.0, 9.0, 3.0])
    assert (top_percent(whole, percent).episode_rows[:, 0] // 3).tolist() == kept


def test_the_first_episodes_that_hold_a_part():
    whole = dataset(content([2, 6, 2], tail=4))
    for percent, kept in ((1, 1), (20, 1), (21, 2), (80, 2), (81, 3)):
        part = first_percent(whole, percent)
        assert part.episode_rows.tolist() == [[0, 2], [2, 8], [8, 10]][:kept]
        assert part.label == f"made first {percent}%"
        assert part.transitions.row.tolist() == list(range(2)) + [2, 3, 4, 5, 6, 7] * (kept > 1) + [8, 9] * (kept > 2)


@pytest.mark.parametrize("keep", [top_percent, first_percent])
def test_all_of_it_is_the_data_set_itself(keep):
    whole = rewarded([1.0, 2.0], tail=2)
    assert keep(whole, 100) is whole
    for percent in (0, -5, 100.5, math.nan):
        assert f"{percent:g} percent of made cannot be kept" in error_of(keep, whole, percent)


def test_nothing_to_keep():
    arrays = content([3, 1], end="timeouts", tail=2)
    arrays["rewards"][3] = 50.0
    assert error_of(top_percent, dataset(arrays), 50) == "made: top 50% of it holds no transition; keep more"


def test_filters_of_minari_data_and_of_joins(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    episodes = [
        Episode(np.full((4, 2), float(value)), np.zeros((3, 1)), np.full(3, float(value)), value % 2 == 0)
        for value in range(4)
    ]
    write_minari("toy/one-v0", episodes, env_id="E", algorithm="a", description="d")
    best = top_percent(load_dataset("toy/one-v0+toy/one-v0"), 25)
    assert best.episode_returns.tolist() == [9.0, 9.0]
    assert best.transitions.row.tolist() == [12, 13, 14, 28, 29, 30]
    assert set(best.transitions.observation[best.transitions.row + 1].ravel()) == {3.0}


@given(
    st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12),
    st.floats(1, 99),
)
def test_what_is_kept_is_better_than_what_is_not(returns, percent):
    whole = rewarded(returns, tail=2)
    best = top_percent(whole, percent)
    count = math.ceil(percent * len(returns) / 100)
    assert sorted(best.episode_returns, reverse=True) == sorted(returns, reverse=True)[:count]
    assert set(best.transitions.row) <= set(whole.transitions.row)
    assert (np.diff(best.episode_rows[:, 0]) > 0).all()


def test_chosen_episodes():
    chosen = keep_episodes(rewarded([1.0, 2.0, 3.0]), np.array([0, 2]), "odd ones")
    assert chosen.episode_returns.tolist() == [1.0, 3.0]
    assert chosen.label == "made odd ones"
