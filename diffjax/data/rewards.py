"""The reward transforms of the published programs, each ``r' = scale * r + shift``.

Three families exist: the torch programs (Diffusion-QL, DiffCPS, DiffPoGAN, DTQL), DAC and CORL. Where they disagree
about a transform of the same name, DAC's carries the prefix ``dac_`` and CORL's ``corl_``. Every statistic is over the
transitions that are trained on (``row``), in their order, and is computed in float64.
"""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from diffjax.data.transitions import Transitions, has_trajectories, next_observations, trajectory_returns
from diffjax.errors import UserError

Affine = tuple[float, float]

_INSTEAD = "say --set reward=raw"
DAC_JUMP = 1e-6  # distance between next observation and following observation that ends a trajectory in DAC


def reward_affine(name: str, transitions: Transitions) -> Affine:
    """``(scale, shift)`` of the published reward transform ``name``: ``r' = scale * r + shift``.

    Raises:
      UserError: the name is unknown, or the data give no scale (all returns or all rewards equal, or no trajectories).
    """
    try:
        transform = REWARD_TRANSFORMS[name]
    except KeyError:
        near = difflib.get_close_matches(name, REWARD_TRANSFORMS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(REWARD_TRANSFORMS)}"
        raise UserError(f"reward transform {name!r} is unknown; {hint}") from None
    return transform(transitions)


def raw(transitions: Transitions) -> Affine:
    """``r``: the authors' ``no``. Locomotion and Kitchen in the torch programs."""
    return 1.0, 0.0


def normalize(transitions: Transitions) -> Affine:
    """``(r - mean) / std`` with the unbiased standard deviation. Adroit in Diffusion-QL's family.

    Raises:
      UserError: there is one transition, or all rewards are equal.
    """
    reward = _reward(transitions)
    if reward.size < 2:
        raise UserError(f"reward transform 'normalize' needs two transitions; there is one; {_INSTEAD}")
    return _standardize("normalize", reward.mean(), reward.std(ddof=1))


def limits(transitions: Transitions) -> Affine:
    """``2 (r - min) / (max - min) - 1``. Adroit and Kitchen in EDP.

    Raises:
      UserError: all rewards are equal.
    """
    reward = _reward(transitions)
    low, high = float(reward.min()), float(reward.max())
    if low == high:
        raise UserError(f"reward transform 'limits' divides by the range of the rewards, but all are equal; {_INSTEAD}")
    return 2.0 / (high - low), -(high + low) / (high - low)


def cql_antmaze(transitions: Transitions) -> Affine:
    """``4 (r - 1/2)``. AntMaze and Maze2D in Diffusion-QL's family."""
    return 4.0, -2.0


def iql_antmaze(transitions: Transitions) -> Affine:
    """``r - 1``. AntMaze in DTQL, IQL and CORL's TD3+BC."""
    return 1.0, -1.0


def antmaze(transitions: Transitions) -> Affine:
    """``2 (r - 1/4)``. Offered by every program, used by no published table."""
    return 2.0, -0.5


def antmaze100(transitions: Transitions) -> Affine:
    """``100 r``. AntMaze in ReBRAC; offered by DAC."""
    return 100.0, 0.0


def iql_locomotion(transitions: Transitions) -> Affine:
    """``1000 r / (max R - min R)``, torch programs.

    Returns ``R`` run from terminal to terminal: time limits do not end one, and what follows the last
    terminal is ignored.
    """
    _check_trajectories("iql_locomotion", transitions)
    terminal = _terminal(transitions)
    returns = trajectory_returns(_reward(transitions), terminal)[: int(terminal.sum())]
    return 1000.0 / _range("iql_locomotion", returns), 0.0


def dac_iql_locomotion(transitions: Transitions) -> Affine:
    """``1000 r / (max R - min R)``: locomotion in IQL, and all published rows of DAC, AntMaze included.

    A trajectory ends as `dac_trajectory_ends` says; the last, perhaps unfinished one counts.
    """
    _check_trajectories("dac_iql_locomotion", transitions)
    returns = trajectory_returns(_reward(transitions), dac_trajectory_ends(transitions))
    return 1000.0 / _range("dac_iql_locomotion", returns), 0.0


def corl_locomotion(transitions: Transitions, max_episode_steps: int = 1000) -> Affine:
    """``max_episode_steps r / (max R - min R)``: the few locomotion rows of CORL's IQL and CQL that scale rewards.

    A trajectory ends with a terminal, or after ``max_episode_steps`` transitions wherever it began, which in data with
    time limits slides over the borders of episodes; what follows the last end is ignored.
    """
    _check_trajectories("corl_locomotion", transitions)
    terminal, place = _terminal(transitions), np.arange(len(transitions.row))
    first = np.maximum.accumulate(np.where(np.append(True, terminal[:-1]), place, 0))
    end = terminal | ((place - first + 1) % max_episode_steps == 0)
    returns = trajectory_returns(_reward(transitions), end)[: int(end.sum())]
    return max_episode_steps / _range("corl_locomotion", returns), 0.0


def corl_cql_antmaze(transitions: Transitions) -> Affine:
    """``10 r - 5``. AntMaze in CORL's CQL."""
    return 10.0, -5.0


def dac_traj_normalize(transitions: Transitions) -> Affine:
    """``L r / (max R - min R)``, DAC, with ``L`` the mean trajectory length rounded down."""
    _check_trajectories("dac_traj_normalize", transitions)
    end = dac_trajectory_ends(transitions)
    returns = trajectory_returns(_reward(transitions), end)
    return (end.size // int(end.sum())) / _range("dac_traj_normalize", returns), 0.0


def dac_reward_normalize(transitions: Transitions) -> Affine:
    """``(r - mean) / std`` with the population standard deviation, DAC."""
    reward = _reward(transitions)
    return _standardize("dac_reward_normalize", reward.mean(), reward.std())


def dac_trajectory_ends(transitions: Transitions) -> np.ndarray:
    """Which transitions end a trajectory in DAC, ``(size,)`` bool.

    Terminals, transitions whose next observation is more than 1e-6 away from the observation of the following
    transition, and the last transition.
    """
    row = np.asarray(transitions.row)
    end = _terminal(transitions)
    end[-1] = True
    if transitions.next_observation is None:
        # Between neighbouring rows the two observations are one and the same, so only the gaps need a look.
        gap = np.flatnonzero(np.diff(row) != 1)
    else:
        gap = np.arange(len(row) - 1)
    following = np.asarray(transitions.observation)[row[gap + 1]]
    jump = np.linalg.norm(next_observations(transitions, row[gap]) - following, axis=1)
    end[gap] |= jump > DAC_JUMP
    return end


REWARD_TRANSFORMS: Mapping[str, Callable[[Transitions], Affine]] = MappingProxyType(
    {
        transform.__name__: transform
        for transform in (
            raw,
            normalize,
            limits,
            cql_antmaze,
            iql_antmaze,
            antmaze,
            antmaze100,
            iql_locomotion,
            dac_iql_locomotion,
            corl_locomotion,
            corl_cql_antmaze,
            dac_traj_normalize,
            dac_reward_normalize,
        )
    }
)


def _reward(transitions: Transitions) -> np.ndarray:
    return np.asarray(transitions.reward)[np.asarray(transitions.row)].astype(np.float64)


def _check_trajectories(name: str, transitions: Transitions) -> None:
    if not has_trajectories(transitions):
        raise UserError(
            f"reward transform {name!r} divides by the range of the trajectory returns, and rows in no order have no "
            f"trajectories; {_INSTEAD}"
        )


def _terminal(transitions: Transitions) -> np.ndarray:
    return np.asarray(transitions.terminal)[np.asarray(transitions.row)]


def _standardize(name: str, mean: float, std: float) -> Affine:
    if not std > 0:
        raise UserError(
            f"reward transform {name!r} divides by the standard deviation of the rewards, but all are equal; {_INSTEAD}"
        )
    return float(1.0 / std), float(-mean / std)


def _range(name: str, returns: np.ndarray) -> float:
    if returns.size < 2 or not returns.max() > returns.min():
        raise UserError(
            f"reward transform {name!r} divides by the range of the trajectory returns, which is zero here "
            f"(trajectories by its rule: {returns.size}); {_INSTEAD}"
        )
    return float(returns.max() - returns.min())
