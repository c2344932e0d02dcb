"""What a file says of its own order: next observations against the following row, flags of several layouts."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from data_tools import error_of
from hypothesis import given
from hypothesis import strategies as st

from diffjax.data.filters import first_percent, top_percent
from diffjax.data.load import load_dataset
from diffjax.data.rewards import reward_affine
from diffjax.data.transitions import Dataset, fingerprint, next_observations
from diffjax.types import Spec

SPEC = Spec(observation_dim=2, action_dim=1)
Content = dict[str, np.ndarray]


def recorded(lengths: list[int], terminal: tuple[int, ...] = ()) -> Content:
    """Episodes of these lengths; episode ``e`` at time ``t`` observes ``(e + 1, t / 8)``, its last step included."""
    pairs = [(episode, time) for episode, length in enumerate(lengths) for time in range(length)]
    last = np.array([time == lengths[episode] - 1 for episode, time in pairs])
    is_terminal = last & np.array([episode in terminal for episode, _ in pairs])
    at = np.array(pairs, np.float32)
    return {
        "observations": np.stack([at[:, 0] + 1, at[:, 1] / 8], axis=1),
        "actions": np.full((len(pairs), 1), 0.5, np.float32),
        "rewards": at[:, 1] + 1,
        "terminals": is_terminal,
        "timeouts": last & ~is_terminal,
        "next_observations": np.stack([at[:, 0] + 1, (at[:, 1] + 1) / 8], axis=1),
    }


def write(path: Path, content: Content) -> str:
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        with h5py.File(path, "w") as file:
            for key, value in content.items():
                file[key] = value
    return str(path)


def without(content: Content, *keys: str) -> Content:
    return {key: value for key, value in content.items() if key not in keys}


def pairs_of(dataset: Dataset) -> list[tuple[float, ...]]:
    """(observation, next observation, terminal) of each transition."""
    data = dataset.transitions
    parts = (data.observation[data.row], next_observations(data, data.row), data.terminal[data.row][:, None])
    return [tuple(row) for row in np.concatenate(parts, axis=1).tolist()]


def assert_right(dataset: Dataset) -> None:
    """Every transition but a terminal one leads to the next time of its own episode."""
    for episode, time, following, later, terminal in pairs_of(dataset):
        assert terminal or (following, later) == (episode, time + 0.125)


FILES = pytest.mark.parametrize("name", ["a.hdf5", "a.npz"])


@FILES
def test_next_observations_of_the_following_row_change_nothing(tmp_path, name):
    content = recorded([3, 4, 2], terminal=(1,))
    with_next = load_dataset(write(tmp_path / name, content), SPEC)
    plain = load_dataset(write(tmp_path / f"plain-{name}", without(content, "next_observations")), SPEC)
    assert with_next.fingerprint == plain.fingerprint
    assert with_next.transitions.next_observation is None
    assert with_next.notes == ()
    assert with_next.transitions.row.tolist() == [0, 1, 3, 4, 5, 6, 7]


def test_a_rounding_is_no_border(tmp_path):
    content = recorded([4, 4])
    content["observations"] = (content["observations"] / 3).astype(np.float16)
    content["next_observations"] = content["next_observations"] / 3
    assert load_dataset(write(tmp_path / "a.hdf5", content), SPEC).notes == ()


@FILES
def test_rows_dropped_at_time_limits_leave_borders(tmp_path, name):
    """What d4rl.qlearning_dataset returns: no timeouts, no row at a time limit."""
    whole = recorded([4, 5, 3], terminal=(1,))
    dump = without({key: value[~whole["timeouts"]] for key, value in whole.items()}, "timeouts")
    dataset = load_dataset(write(tmp_path / name, dump), SPEC, horizon=4)
    assert_right(dataset)
    # Rows 0-2 | 3-7, terminal | 8-9 of the file; the borders after 2 and 9 are rows 3 and 11 now.
    assert dataset.transitions.row.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert np.flatnonzero(dataset.transitions.end).tolist() == [3, 8, 11]
    assert dataset.transitions.next_observation is None
    assert dataset.transitions.observation[3].tolist() == [1.0, 0.375]
    assert (dataset.transitions.action[3], dataset.transitions.reward[3]) == (0, 0)
    assert dataset.episode_returns.tolist() == [6.0, 15.0, 3.0]
    assert "trajectories end at 1 rows that only 'next_observations' marks" in dataset.notes[0]
    assert load_dataset(write(tmp_path / name, dump)).fingerprint == dataset.fingerprint  # no horizon is needed


def test_borders_beside_marked_time_limits(tmp_path):
    content = recorded([4, 5, 3])
    content["timeouts"][3] = False
    dataset = load_dataset(write(tmp_path / "a.hdf5", content), SPEC)
    assert_right(dataset)
    assert len(pairs_of(dataset)) == 12
    assert dataset.episode_returns.tolist() == [10.0, 15.0, 6.0]


@pytest.mark.parametrize("filler", ["nan", "zeros", "itself"])
def test_a_border_without_a_next_observation_begins_no_transition(tmp_path, filler):
    content = without(recorded([4, 5, 3]), "timeouts")
    last = np.array([3, 8, 11])
    fill = {"nan": np.nan, "zeros": 0, "itself": content["observations"][last]}
    content["next_observations"][last] = fill[filler]
    dataset = load_dataset(write(tmp_path / "a.hdf5", content), SPEC)
    assert_right(dataset)
    assert dataset.transitions.row.tolist() == [0, 1, 2, 4, 5, 6, 7, 9, 10]
    assert dataset.episode_returns.tolist() == [10.0, 15.0, 6.0]


def test_shifted_observations_mark_no_border(tmp_path):
    """Next observations made by shifting say nothing of where episodes end: the horizon does."""
    content = without(recorded([4, 4]), "timeouts")
    content["next_observations"] = np.roll(content["observations"], -1, axis=0)
    dataset = load_dataset(write(tmp_path / "a.hdf5", content), SPEC, horizon=4)
    assert dataset.transitions.row.tolist() == [0, 1, 2, 4, 5, 6]


def test_a_defect_behind_a_border_is_named_by_its_row_in_the_file(tmp_path):
    content = without(recorded([4, 5, 3]), "timeouts")
    content["rewards"][10] = np.nan
    assert "'rewards' holds NaN or infinity (in float32), first at row 10;" in error_of(
        load_dataset, write(tmp_path / "a.hdf5", content)
    )


def shuffled(content: Content, seed: int = 0) -> Content:
    order = np.random.default_rng(seed).permutation(len(content["rewards"]))
    return {key: value[order] for key, value in content.items()}


@FILES
def test_a_shuffled_buffer_is_read_by_its_own_next_observations(tmp_path, name):
    content = recorded([20, 30, 10], terminal=(1,))
    mixed = shuffled(content)
    dataset = load_dataset(write(tmp_path / name, mixed), SPEC)
    data = dataset.transitions
    assert_right(dataset)
    assert data.row.tolist() == list(range(60))
    np.testing.assert_array_equal(data.next_observation, mixed["next_observations"])
    assert data.next_observation.dtype == np.float32
    assert data.end.all()
    assert dataset.episode_returns.shape == (0,)
    assert dataset.episode_rows.shape == (0, 2)
    assert dataset.notes == (
        "rows are in no order: each row's own 'next_observations' is used (a second array of 0.00048 MB), and there "
        "are no trajectories",
    )
    assert dataset.fingerprint == fingerprint(data) != fingerprint(data._replace(next_observation=None))
    # Neither flags of time limits nor a horizon is needed.
    assert load_dataset(write(tmp_path / name, without(mixed, "timeouts"))).fingerprint == dataset.fingerprint


def test_a_shuffled_row_without_a_next_observation(tmp_path):
    """A terminal one keeps its place, masked; another begins no transition."""
    content = recorded([20, 30], terminal=(1,))
    content["next_observations"][[19, 49]] = np.nan
    mixed = shuffled(content)
    dataset = load_dataset(write(tmp_path / "a.hdf5", mixed), SPEC)
    assert_right(dataset)
    assert dataset.transitions.row.size == 49
    assert np.isfinite(dataset.transitions.next_observation[dataset.transitions.row]).all()


def test_what_needs_trajectories_refuses_rows_in_no_order(tmp_path):
    dataset = load_dataset(write(tmp_path / "a.hdf5", shuffled(recorded([20, 30]))), SPEC)
    for keep in (top_percent, first_percent):
        assert "rows in no order, so its trajectories are unknown" in error_of(keep, dataset, 50)
        assert keep(dataset, 100) is dataset
    for name in ("iql_locomotion", "dac_iql_locomotion", "dac_traj_normalize"):
        message = error_of(reward_affine, name, dataset.transitions)
        assert message.endswith("rows in no order have no trajectories; say --set reward=raw")
    assert reward_affine("raw", dataset.transitions) == (1.0, 0.0)
    reward = shuffled(recorded([20, 30]))["rewards"]
    assert reward_affine("normalize", dataset.transitions)[0] == pytest.approx(1 / reward.std(ddof=1))


def test_joined_with_rows_in_order(tmp_path):
    ordered = write(tmp_path / "a.hdf5", recorded([3, 4], terminal=(0,)))
    mixed = write(tmp_path / "b.npz", shuffled(recorded([20, 30])))
    for source in (f"{ordered}+{mixed}", f"{mixed}+{ordered}"):
        dataset = load_dataset(source, SPEC)
        assert_right(dataset)
        assert dataset.transitions.row.size == 3 + 3 + 50
        assert dataset.episode_returns.size == 0
        assert dataset.notes[0].startswith(f"{mixed}: rows are in no order")
        assert dataset.fingerprint == fingerprint(dataset.transitions)


def test_borders_stay_in_a_join_and_in_a_part(tmp_path):
    dump = without(recorded([4, 5, 3]), "timeouts")
    source = write(tmp_path / "a.hdf5", dump)
    whole = load_dataset(f"{source}+{source}", SPEC)
    assert_right(whole)
    assert whole.transitions.row.size == 24
    best = top_percent(whole, 33)
    assert best.episode_returns.tolist() == [15.0, 15.0]
    assert_right(best)
    assert best.transitions.row.size == 10


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_no_wrong_transition_is_made_and_no_right_one_lost(tmp_path_factory, lengths, data):
    """Whatever the order of the rows and whichever ends are marked."""
    content = recorded(lengths, terminal=tuple(data.draw(st.sets(st.integers(0, len(lengths) - 1)))))
    content["timeouts"] &= np.array(data.draw(st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths))))
    if data.draw(st.booleans()):
        content = shuffled(content)
    if len(content["rewards"]) < 2:
        return
    path = tmp_path_factory.mktemp("order") / "a.npz"
    unmarked = without(content, "timeouts")
    dataset = (
        load_dataset(write(path, content | {"timeouts": content["timeouts"]}), SPEC)
        if data.draw(st.booleans())
        else load_dataset(write(path, unmarked), SPEC, horizon=1000)
    )
    assert_right(dataset)
    if dataset.notes:
        assert dataset.transitions.row.size == len(content["rewards"])


# Flags


def flags_of(path: Path, content: Content) -> tuple[list[int], list[int], list[int]]:
    """Rows that are terminal, that end a trajectory, that begin no transition."""
    data = load_dataset(write(path, content), SPEC, horizon=100).transitions
    rows = np.arange(len(data.reward))
    return (
        np.flatnonzero(data.terminal).tolist(),
        np.flatnonzero(data.end).tolist(),
        np.setdiff1d(rows, data.row).tolist(),
    )


# Episodes of rows 0-2 (time limit), 3-6 (terminal), 7-8 (time limit).
PLAIN = without(recorded([3, 4, 2], terminal=(1,)), "next_observations")
ARRAYS = without(PLAIN, "terminals", "timeouts")
ENDS = PLAIN["terminals"] | PLAIN["timeouts"]


@pytest.mark.parametrize(
    "flags",
    [
        {"terminals": PLAIN["terminals"], "timeouts": PLAIN["timeouts"]},
        {"terminated": PLAIN["terminals"], "truncated": PLAIN["timeouts"]},
        {"terminations": PLAIN["terminals"], "truncations": PLAIN["timeouts"]},
        {"terminals": ENDS, "masks": 1.0 - PLAIN["terminals"]},
        {"masks": 1.0 - PLAIN["terminals"], "dones_float": ENDS.astype(np.float32)},
        {"masks": 1.0 - PLAIN["terminals"], "timeouts": PLAIN["timeouts"], "terminals": PLAIN["terminals"]},
        {"terminals": PLAIN["terminals"], "episode_terminals": ENDS},
        {"terminals": PLAIN["terminals"], "dones": ENDS},
        {"dones": ENDS, "timeouts": PLAIN["timeouts"]},
        {"done": ENDS, "truncated": PLAIN["timeouts"]},
    ],
    ids=" ".join,
)
def test_the_same_ends_in_other_words(tmp_path, flags):
    assert flags_of(tmp_path / "a.npz", ARRAYS | flags) == ([6], [2, 6, 8], [2, 8])


def test_arrays_in_other_words(tmp_path):
    renamed = {"obs": ARRAYS["observations"], "action": ARRAYS["actions"], "reward": ARRAYS["rewards"]}
    flags = {"terminals": PLAIN["terminals"], "timeouts": PLAIN["timeouts"]}
    renamed["next_obs"] = recorded([3, 4, 2], terminal=(1,))["next_observations"]
    assert flags_of(tmp_path / "a.npz", renamed | flags) == ([6], [2, 6, 8], [2, 8])


def test_a_terminal_step_within_a_trajectory(tmp_path):
    """OGBench: the robot succeeds and goes on; the target stops there, the trajectory does not."""
    masks = np.ones(9)
    masks[4] = 0
    assert flags_of(tmp_path / "a.npz", ARRAYS | {"terminals": ENDS, "masks": masks}) == ([4], [2, 6, 8], [2, 6, 8])


def test_rows_that_are_not_valid_begin_no_transition(tmp_path):
    """OGBench's compact form marks the last step and the last observation; only the latter is not valid."""
    terminals = ENDS.copy()
    terminals[[1, 5, 7]] = True
    flags = {"terminals": terminals, "masks": np.ones(9), "valids": 1.0 - ENDS}
    assert flags_of(tmp_path / "a.npz", ARRAYS | flags) == ([], [2, 6, 8], [2, 6, 8])


def test_masks_that_mark_no_time_limit_need_the_horizon(tmp_path):
    flags = {"terminals": PLAIN["terminals"], "masks": 1.0 - PLAIN["terminals"]}
    source = write(tmp_path / "a.npz", ARRAYS | flags)
    assert "the horizon of its task is needed" in error_of(load_dataset, source, SPEC)
    assert load_dataset(source, SPEC, horizon=5).transitions.row.tolist() == [0, 1, 2, 3, 5, 6, 7]
