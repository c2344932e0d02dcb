"""The line that says what was read, and the warnings: one for each kind of file that can hardly be meant, else none."""

from pathlib import Path

import numpy as np
import pytest

from diffjax.data.load import load_dataset
from diffjax.data.minari_store import Episode, write_minari
from diffjax.types import Spec

DIMS = 11


def walks(episodes: int = 4, length: int = 30, spread: float = 1.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Random walks of small steps whose starts lie ``spread`` apart; a time limit ends each."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(episodes, length, DIMS)).cumsum(axis=1) / 100
    rows = episodes * length
    return {
        "observations": (steps + spread * np.arange(episodes)[:, None, None]).reshape(rows, DIMS).astype(np.float32),
        "actions": random.uniform(-1, 1, (rows, 3)).astype(np.float32),
        "rewards": np.tile(np.arange(length, dtype=np.float32), episodes),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.arange(rows) % length == length - 1,
    }


def lines_of(tmp_path: Path, content: dict[str, np.ndarray], horizon: int | None = 1000) -> list[str]:
    """What a load reports, without the file's name."""
    source = str(tmp_path / "a.npz")
    np.savez(source, **content)
    lines: list[str] = []
    load_dataset(source, Spec(DIMS, 3), horizon=horizon, report=lines.append)
    assert not any("\n" in line for line in lines)
    return [line.replace(f"{source}: ", "") for line in lines]


def test_one_line_says_what_was_read(tmp_path):
    content = walks(3, 4)
    content["terminals"][7], content["timeouts"][7] = True, False
    content["rewards"][8:] = [0, 0, 0, -2.5]
    assert lines_of(tmp_path, content) == [
        "'unlabelled', 10 transitions; 3 episodes; returns 3.1667 (min -2.5, max 6); 1 terminals; 2 time limits; "
        "rewards 0 to 3"
    ]


def test_nothing_is_printed_unless_asked(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", **walks() | {"timeouts": np.zeros(120, bool)})
    load_dataset(str(tmp_path / "a.npz"), horizon=10)
    assert capsys.readouterr() == ("", "")


def test_rows_in_no_order_have_no_returns(tmp_path):
    content = walks()
    content["next_observations"] = content["observations"] + np.float32(0.01)
    order = np.random.default_rng(1).permutation(120)
    assert lines_of(tmp_path, {key: value[order] for key, value in content.items()}) == [
        "'unlabelled', 120 transitions; 0 terminals; rewards 0 to 29; rows are in no order: each row's own "
        "'next_observations' is used (a second array of 0.00528 MB), and there are no trajectories"
    ]


def test_resets_that_nothing_marks(tmp_path):
    content = walks() | {"timeouts": np.zeros(120, bool)}
    summary, warning = lines_of(tmp_path, content)
    assert "1 episodes" in summary
    assert "no end before the last row" in summary
    assert warning == (
        "warning: the observation jumps as in a reset at 3 rows, first after row 29, where nothing marks an end; mark "
        "the row before each reset in 'timeouts'"
    )


def test_resets_to_the_first_observation_are_small_jumps(tmp_path):
    """As of a robot that is set upright again: the reset is no larger than a few steps."""
    content = walks(spread=0.0) | {"timeouts": np.zeros(120, bool)}
    content["observations"][[0, 30, 60, 90]] = content["observations"][0]
    assert "jumps as in a reset at 3 rows, first after row 29" in lines_of(tmp_path, content)[1]


@pytest.mark.parametrize("key", ["timeouts", "terminals"])
def test_flags_on_first_rows(tmp_path, key):
    content = walks() | {"timeouts": np.zeros(120, bool)}
    content[key] = np.arange(120) % 30 == 0
    warning = (
        "warning: 3 marked ends stand on an episode's first row (the observation jumps before them, first after row "
        "29), not on its last: shift the flags by one, numpy.roll(flags, -1)"
    )
    assert lines_of(tmp_path, content)[1:] == [warning]


def test_an_episode_longer_than_the_horizon(tmp_path):
    content = walks(6, 10, spread=0.0)
    content["timeouts"][[19, 29]] = False
    warning = "warning: an episode has 29 steps, more than the task's horizon of 10; mark its time limits in 'timeouts'"
    assert lines_of(tmp_path, content, horizon=10)[1:] == [warning]
    # All of one length: recorded under a limit of their own, as D4RL's Maze2D.
    assert lines_of(tmp_path, walks(), horizon=10)[1:] == []


def test_flags_on_first_rows_beside_next_observations(tmp_path):
    content = walks()
    following = np.roll(content["observations"], -1, axis=0)
    following[content["timeouts"]] = content["observations"][content["timeouts"]] + np.float32(0.01)
    content |= {"next_observations": following, "timeouts": np.roll(content["timeouts"], 1)}
    summary, warning = lines_of(tmp_path, content)
    assert "120 transitions" not in summary  # a marked time limit begins none
    assert warning == (
        "warning: 4 of 8 episodes are single rows; a flag on an episode's first row instead of its last does that: "
        "numpy.roll(flags, -1) shifts flags by one"
    )


def test_time_limits_stored_as_terminals(tmp_path):
    content = walks(4, 30, spread=0.0)
    content["terminals"], content["timeouts"] = content["timeouts"], content["terminals"]
    warning = (
        "warning: 4 episodes end as terminal after exactly 30 steps, the task's horizon; if these are time limits, "
        "store them in 'timeouts' and not in 'terminals'"
    )
    assert lines_of(tmp_path, content, horizon=30)[1:] == [warning]
    assert lines_of(tmp_path, content, horizon=31)[1:] == []


def test_one_row_after_the_last_episode(tmp_path):
    content = walks()
    for key in ("observations", "actions", "rewards", "timeouts"):
        content[key][-1] = 0
    assert "jumps as in a reset at 1 rows, first after row 118" in lines_of(tmp_path, content)[1]


def test_masks_the_wrong_way_round(tmp_path):
    content = walks()
    content["terminals"], content["masks"] = content.pop("timeouts"), np.zeros(120)
    warning = "warning: most transitions are terminal though their trajectory goes on; 'masks' is 0 on terminal rows"
    assert lines_of(tmp_path, content)[1:] == [warning]


def test_rows_never_filled_in_between_episodes(tmp_path):
    content = walks()
    for key in ("observations", "actions", "rewards"):
        content[key][25:29] = 0
    warning = "warning: 4 transitions are zero in observation, action and reward, as rows never filled in are"
    assert lines_of(tmp_path, content)[1:] == [warning]


def test_next_observations_that_follow_nothing(tmp_path):
    content = walks()
    content["next_observations"] = content["observations"][np.random.default_rng(1).permutation(120)]
    warning = (
        "warning: 'next_observations' lie as far from 'observations' as those of other rows do; each must be the "
        "observation one step later"
    )
    assert lines_of(tmp_path, content)[1:] == [warning]


@pytest.mark.parametrize("spread", [0.0, 0.05, 1.0])
def test_marked_resets_warn_of_nothing(tmp_path, spread):
    assert lines_of(tmp_path, walks(spread=spread))[1:] == []


def test_a_robot_at_rest_warns_of_nothing(tmp_path):
    content = walks()
    content["observations"][:] = 1
    assert lines_of(tmp_path, content)[1:] == []


def test_parts_of_a_join_and_minari_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    content = walks(1, 61)
    episode = Episode(content["observations"], content["actions"][:60], np.ones(60), False)
    write_minari("toy/long-v0", [episode] * 3, env_id="E", algorithm="a", description="d")
    np.savez(tmp_path / "a.npz", **walks() | {"timeouts": np.zeros(120, bool)})
    lines: list[str] = []
    load_dataset(f"toy/long-v0+{tmp_path / 'a.npz'}", horizon=60, report=lines.append)
    assert lines[0].startswith(
        f"toy/long-v0+{tmp_path / 'a.npz'}: 'toy/long-v0+unlabelled', 299 transitions; 4 episodes;"
    )
    assert "0 terminals; 4 time limits" in lines[0]
    assert [line.split(": ")[1] for line in lines[1:]] == [str(tmp_path / "a.npz")] * 2
