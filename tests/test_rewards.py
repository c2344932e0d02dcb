"""Reward transforms against recordings of the authors' programs, hand-computed numbers and plain loops."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjax.data.rewards import REWARD_TRANSFORMS, corl_locomotion, dac_trajectory_ends, reward_affine
from diffjax.data.transitions import Transitions
from diffjax.errors import UserError

GOLDEN_TRANSFORMS = {
    "torch_family/no": "raw",
    "torch_family/normalize": "normalize",
    "torch_family/iql_antmaze": "iql_antmaze",
    "torch_family/iql_locomotion": "iql_locomotion",
    "torch_family/cql_antmaze": "cql_antmaze",
    "torch_family/antmaze": "antmaze",
    "dac/no": "raw",
    "dac/iql_locomotion": "dac_iql_locomotion",
    "dac/traj_normalize": "dac_traj_normalize",
    "dac/reward_normalize": "dac_reward_normalize",
    "dac/iql_antmaze": "iql_antmaze",
    "dac/cql_antmaze": "cql_antmaze",
    "dac/antmaze": "antmaze",
    "dac/antmaze100": "antmaze100",
}

RECORDED_ELSEWHERE = {"corl_locomotion", "corl_cql_antmaze"}  # test_golden_gaussian.py


def flat(observation, action, reward, next_observation, terminal) -> Transitions:
    """Flat arrays from separate next observations: one more row where the next is not the following row."""
    size = len(reward)
    cut = np.ones(size, bool)
    cut[:-1] = (next_observation[:-1] != observation[1:]).any(axis=1)
    row = np.arange(size) + np.concatenate([[0], np.cumsum(cut)[:-1]])
    rows = size + int(cut.sum())
    arrays = Transitions(
        np.zeros((rows, observation.shape[1]), np.float32),
        np.zeros((rows, action.shape[1]), np.float32),
        np.zeros(rows, np.float32),
        np.zeros(rows, bool),
        np.ones(rows, bool),
        row.astype(np.int32),
    )
    arrays.observation[row + 1] = next_observation
    arrays.observation[row] = observation
    arrays.action[row], arrays.reward[row], arrays.terminal[row] = action, reward, terminal
    np.testing.assert_array_equal(arrays.observation[row + 1], next_observation)
    arrays.end[row] = False
    return arrays


def episodes(*parts: tuple[list[float], bool]) -> Transitions:
    """Flat arrays of episodes ``(rewards, terminal)``; every observation is unlike every other."""
    reward, terminal, row = [], [], []
    for rewards, ended in parts:
        row += range(len(reward), len(reward) + len(rewards))
        reward += [*rewards, 0.0]
        terminal += [False] * (len(rewards) - 1) + [ended, False]
    rows = len(reward)
    return Transitions(
        np.arange(rows, dtype=np.float32)[:, None],
        np.zeros((rows, 1), np.float32),
        np.array(reward, np.float32),
        np.array(terminal),
        ~np.isin(np.arange(rows), row),
        np.array(row, np.int32),
    )


@pytest.fixture(scope="module")
def golden(goldens_dir: Path):
    with np.load(goldens_dir / "reward_tuning.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def golden_transitions(golden) -> Transitions:
    keys = ("observations", "actions", "rewards", "next_observations", "terminals")
    return flat(*(golden[f"data/{key}"] for key in keys))


@pytest.mark.parametrize("key", GOLDEN_TRANSFORMS)
def test_published_rewards(golden, golden_transitions, key):
    scale, shift = reward_affine(GOLDEN_TRANSFORMS[key], golden_transitions)
    np.testing.assert_allclose(scale * golden["data/rewards"] + shift, golden[key], rtol=1e-5, atol=1e-5)


def test_published_trajectory_ends_masks_and_clipped_actions(golden, golden_transitions):
    np.testing.assert_array_equal(dac_trajectory_ends(golden_transitions), golden["dac_dataset/dones_float"])
    row = golden_transitions.row
    np.testing.assert_array_equal(1.0 - golden_transitions.terminal[row], golden["dac_dataset/masks"])
    limit = np.float32(1 - 1e-5)
    clipped = np.clip(golden_transitions.action[row], -limit, limit)
    np.testing.assert_array_equal(clipped, golden["dac_dataset/actions_clipped"])


def test_every_recorded_array_is_reproduced(golden, goldens_dir):
    described = json.loads((goldens_dir / "reward_tuning.json").read_text())["keys"]
    derived = {key for key in described if not key.startswith("data/")}
    assert derived == set(golden) - {key for key in golden if key.startswith("data/")}
    assert derived == set(GOLDEN_TRANSFORMS) | {
        f"dac_dataset/{key}" for key in ("dones_float", "masks", "actions_clipped")
    }
    assert set(GOLDEN_TRANSFORMS.values()) | RECORDED_ELSEWHERE == set(REWARD_TRANSFORMS)


# Returns: 3 (terminal), 10 (cut), 7 (terminal), 100 (unfinished tail). Rewards 1 2 4 6 3 4 100: mean 120 / 7.
HAND = episodes(([1.0, 2.0], True), ([4.0, 6.0], False), ([3.0, 4.0], True), ([100.0], False))
HAND_SQUARES = 1 + 4 + 16 + 36 + 9 + 16 + 10000 - 120**2 / 7


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raw", (1.0, 0.0)),
        ("cql_antmaze", (4.0, -2.0)),
        ("iql_antmaze", (1.0, -1.0)),
        ("antmaze", (2.0, -0.5)),
        ("antmaze100", (100.0, 0.0)),
        ("normalize", ((HAND_SQUARES / 6) ** -0.5, -120 / 7 * (HAND_SQUARES / 6) ** -0.5)),
        ("dac_reward_normalize", ((HAND_SQUARES / 7) ** -0.5, -120 / 7 * (HAND_SQUARES / 7) ** -0.5)),
        ("iql_locomotion", (1000 / (17 - 3), 0.0)),  # terminal to terminal: 3, 10 + 7; the tail is ignored
        ("dac_iql_locomotion", (1000 / (100 - 3), 0.0)),  # 3, 10, 7, 100
        ("corl_locomotion", (1000 / (17 - 3), 0.0)),  # the same, for no trajectory is a thousand transitions long
        ("corl_cql_antmaze", (10.0, -5.0)),
        ("dac_traj_normalize", (1 / (100 - 3), 0.0)),  # lengths 2, 2, 2, 1: mean 1.75, rounded down
    ],
)
def test_hand_computed(name, expected):
    assert reward_affine(name, HAND) == pytest.approx(expected, rel=1e-12)


def test_dac_joins_episodes_that_continue_within_a_millionth():
    near = np.array([[0.0], [1.0], [1.0 + 5e-7], [2.0]], np.float32)
    far = np.array([[0.0], [1.0], [1.0 + 5e-6], [2.0]], np.float32)
    for observation, expected in ((near, [False, True]), (far, [True, True])):
        data = Transitions(
            observation,
            np.zeros((4, 1), np.float32),
            np.zeros(4, np.float32),
            np.zeros(4, bool),
            np.array([False, True, False, True]),
            np.array([0, 2], np.int32),
        )
        assert dac_trajectory_ends(data).tolist() == expected


def test_dac_reads_the_stored_next_observation():
    observation = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    data = Transitions(
        observation,
        np.zeros((4, 1), np.float32),
        np.zeros(4, np.float32),
        np.zeros(4, bool),
        np.ones(4, bool),
        np.arange(4, dtype=np.int32),
        np.array([[1.0], [9.0], [3.0], [4.0]], np.float32),
    )
    assert dac_trajectory_ends(data).tolist() == [False, True, False, True]


EPISODES = st.lists(
    st.tuples(st.lists(st.integers(-8, 8).map(float), min_size=1, max_size=6), st.booleans()),
    min_size=1,
    max_size=8,
)


@given(EPISODES)
def test_iql_locomotion_is_the_published_loop(parts):
    returns, total = [], 0.0
    for rewards, ended in parts:
        for index, reward in enumerate(rewards):
            total += reward
            if ended and index == len(rewards) - 1:
                returns.append(total)
                total = 0.0
    check_range_transform("iql_locomotion", episodes(*parts), returns, 1000.0)


@given(EPISODES, st.integers(1, 4))
def test_corl_locomotion_is_the_published_loop(parts, limit):
    returns, total, length = [], 0.0, 0
    for rewards, ended in parts:
        for index, reward in enumerate(rewards):
            total, length = total + reward, length + 1
            if (ended and index == len(rewards) - 1) or length == limit:
                returns.append(total)
                total, length = 0.0, 0
    data = episodes(*parts)
    if len(set(returns)) > 1:
        expected = (limit / (max(returns) - min(returns)), 0.0)
        assert corl_locomotion(data, limit) == pytest.approx(expected)
    else:
        with pytest.raises(UserError, match=f"'corl_locomotion' divides by the range.*rule: {len(returns)}"):
            corl_locomotion(data, limit)


@given(EPISODES)
def test_dac_transforms_are_the_published_loop(parts):
    returns = [sum(rewards) for rewards, _ in parts]
    lengths = [len(rewards) for rewards, _ in parts]
    data = episodes(*parts)
    check_range_transform("dac_iql_locomotion", data, returns, 1000.0)
    check_range_transform("dac_traj_normalize", data, returns, int(np.mean(lengths)))


def check_range_transform(name, data, returns, scale):
    if len(set(returns)) > 1:
        assert reward_affine(name, data) == pytest.approx((scale / (max(returns) - min(returns)), 0.0))
    else:
        with pytest.raises(UserError, match=f"{name!r} divides by the range.*rule: {len(returns)}"):
            reward_affine(name, data)


def test_antmaze_rewards_become_thousands():
    # Every success is terminal, so the largest return is 1 and the smallest 0.
    data = episodes(([0.0, 0.0, 1.0], True), ([1.0], True), ([0.0, 0.0], False))
    assert reward_affine("dac_iql_locomotion", data) == (1000.0, 0.0)


@pytest.mark.parametrize("name", ["normalize", "dac_reward_normalize"])
def test_equal_rewards_cannot_be_normalized(name):
    with pytest.raises(UserError, match=f"{name!r} divides by the standard deviation.*say --set reward=raw"):
        reward_affine(name, episodes(([2.0, 2.0, 2.0], True)))


def test_one_transition_has_no_unbiased_deviation():
    with pytest.raises(UserError, match="'normalize' needs two transitions"):
        reward_affine("normalize", episodes(([2.0], True)))


def test_unknown_names_are_answered_with_the_nearest_or_all():
    with pytest.raises(UserError, match="did you mean 'iql_locomotion'"):
        reward_affine("iql_locomotoin", HAND)
    with pytest.raises(UserError, match=", ".join(REWARD_TRANSFORMS)):
        reward_affine("xyz", HAND)


def test_every_transform_states_its_formula():
    for name, transform in REWARD_TRANSFORMS.items():
        assert transform.__doc__.startswith("``"), name
