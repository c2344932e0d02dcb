"""Clouds of actions in the plane and their rewards: the data of the papers' toy experiments.

Clouds are pure functions of their random numbers; whole problems are drawn from a key.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

Array = np.ndarray
Reward = Callable[[Array], Array]  # actions (..., 2) -> noiseless rewards (...)

DAC_GOAL = (0.4, -0.4)
CORNERS = ((-0.8, 0.8), (-0.8, -0.8), (0.8, 0.8), (0.8, -0.8))
CORNER_REWARDS = (3.0, 0.0, 1.5, 5.0)


class Problem(NamedTuple):
    """A bandit with one state: the data, and what only a judge of the samples knows."""

    name: str
    action: Array  # (size, 2) float32
    reward: Array  # (size,) float32, as the data have it
    true_reward: Reward  # without noise, at any action
    centers: Array  # (modes, 2); empty where the cloud has none
    noise_std: float  # of the cloud around its curve or centres; radius within which a sample counts as in support

    @property
    def best(self) -> Array:
        """The centres (actions of the data, where there are none) of the largest true reward, ``(ties, 2)``."""
        among = self.centers if len(self.centers) else self.action
        value = self.true_reward(among)
        return among[value >= value.max() - 1e-4]


def blobs(centers: Array, noise: Array, std: float) -> Array:
    """``centers[k] + std noise[k, j]``, ``(centers * points, 2)``; ``noise (centers, points, 2)`` standard normal."""
    return (np.asarray(centers, np.float32)[:, None] + np.float32(std) * noise).reshape(-1, 2)


def moons(size: int) -> Array:
    """Two interleaved half circles without noise, ``(size, 2)``: outer ``(cos t, sin t)``, then inner."""
    t = np.linspace(0.0, np.pi, size // 2)
    outer, inner = (np.cos(t), np.sin(t)), (1.0 - np.cos(t), 0.5 - np.sin(t))
    return np.concatenate([np.stack(outer, -1), np.stack(inner, -1)]).astype(np.float32)


def circles(size: int) -> Array:
    """Two concentric circles without noise, radius 1 and then 0.8, ``(size, 2)``."""
    t = np.linspace(0.0, 2.0 * np.pi, size // 2, endpoint=False)
    circle = np.stack([np.cos(t), np.sin(t)], -1)
    return np.concatenate([circle, 0.8 * circle]).astype(np.float32)


def rescale(points: Array, width: float, corner: Sequence[float]) -> Array:
    """Each axis mapped linearly onto ``[corner, corner + width]``."""
    low, high = points.min(axis=0), points.max(axis=0)
    return (width * (points - low) / (high - low) + np.asarray(corner, np.float32)).astype(np.float32)


def swiss_roll(uniform: Array, noise: Array) -> Array:
    """``(t cos t, t sin t) + 0.1 noise``, ``t = 1.5 pi (1 + 2 uniform)``; ``uniform (size,)``, ``noise (size, 2)``."""
    t = 1.5 * np.pi * (1.0 + 2.0 * uniform)
    return (np.stack([t * np.cos(t), t * np.sin(t)], -1) + 0.1 * noise).astype(np.float32)


def ring(uniform: Array, noise: Array, std: float = 0.05) -> Array:
    """``(cos, sin)(2 pi uniform) + std noise``; ``uniform (size,)``, ``noise (size, 2)``."""
    t = 2.0 * np.pi * uniform
    return (np.stack([np.cos(t), np.sin(t)], -1) + std * noise).astype(np.float32)


def grid_centers() -> Array:
    """The 5 x 5 grid ``{-10, -5, 0, 5, 10}^2``, ``(25, 2)``."""
    axis = np.arange(-10.0, 11.0, 5.0, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def closeness(goal: Sequence[float]) -> Reward:
    """``-||a - goal||``."""
    return lambda action: -np.linalg.norm(action - np.asarray(goal, np.float32), axis=-1)


def far(action: Array) -> Array:
    """``||a||``."""
    return np.linalg.norm(action, axis=-1)


def near(largest: float) -> Reward:
    """``largest - ||a||``."""
    return lambda action: largest - far(action)


def hard(action: Array) -> Array:
    """``||a||``, doubled in the top left: ``a_1 < -7.5``, ``a_2 > 7.5``."""
    doubled = (action[..., 0] < -7.5) & (action[..., 1] > 7.5)
    return np.where(doubled, 2.0, 1.0) * far(action)


def corner_reward(action: Array) -> Array:
    """The reward of the nearest of the four corners."""
    distance = np.linalg.norm(action[..., None, :] - np.asarray(CORNERS, np.float32), axis=-1)
    return np.asarray(CORNER_REWARDS, np.float32)[distance.argmin(axis=-1)]


def constant_reward(action: Array) -> Array:
    """1 everywhere."""
    return np.ones(action.shape[:-1], np.float32)


def _normal(key: jax.Array, *shape: int) -> Array:
    return np.asarray(jax.random.normal(key, shape))


def _problem(name: str, action: Array, true_reward: Reward, centers: Array, noise_std: float) -> Problem:
    reward = true_reward(action).astype(np.float32)
    return Problem(name, action.astype(np.float32), reward, true_reward, centers, noise_std)


def dac_problems(key: jax.Array) -> tuple[Problem, ...]:
    """DAC's four sets; their rewards are without the noise that training adds afresh to each minibatch.

    Source: DAC, bandits.py.
    """
    corner = (-0.8, -0.2)
    sets = {
        "two": (np.array([(-0.6, 0.6), (0.4, 0.2)], np.float32), 400, 0.1),
        "three": (np.array([(-0.6, 0.6), (0.4, 0.4), (-0.4, -0.4)], np.float32), 400, 0.1),
        "moons": (rescale(moons(40), 1.1, corner), 10, 0.05),
        "circles": (rescale(circles(40), 1.1, corner), 10, 0.05),
    }
    problems = []
    for part, (name, (centers, points, std)) in zip(jax.random.split(key, 4), sets.items(), strict=True):
        action = np.clip(blobs(centers, _normal(part, len(centers), points, 2), std), -1.0, 1.0)
        problems.append(_problem(name, action, closeness(DAC_GOAL), centers, std))
    return tuple(problems)


def four_corners(key: jax.Array) -> tuple[Problem, ...]:
    """Diffusion-QL's bandit: 2,500 actions at each corner, rewards 3, 0, 1.5, 5 with noise of deviation 0.5.

    Source: Diffusion-QL, toy_experiments.
    """
    action_key, reward_key = jax.random.split(key)
    centers = np.array(CORNERS, np.float32)
    action = np.clip(blobs(centers, _normal(action_key, 4, 2500, 2), 0.05), -1.0, 1.0)
    problem = _problem("corners", action, corner_reward, centers, 0.05)
    return (problem._replace(reward=problem.reward + 0.5 * _normal(reward_key, len(action))),)


def noisy_ring(key: jax.Array) -> tuple[Problem, ...]:
    """DiffCPS's ring: 5,000 actions near the unit circle, all of reward 1; its modes are 36 arcs of ten degrees.

    Source: DiffCPS, section 3.1; whether its 0.05 is a variance or a deviation is not said, a deviation is taken.
    """
    angle_key, noise_key = jax.random.split(key)
    uniform = np.asarray(jax.random.uniform(angle_key, (5000,)))
    centers = ring(np.arange(36) / 36, np.zeros((36, 2)))
    return (_problem("ring", ring(uniform, _normal(noise_key, 5000, 2)), constant_reward, centers, 0.05),)


def dtql_problems(key: jax.Array) -> tuple[Problem, ...]:
    """DTQL's 25 Gaussians and Swiss roll, 10,000 actions each, rewarded far from or near to the origin.

    Source: DTQL, toy_tasks.
    """
    grid_key, roll_key, noise_key = jax.random.split(key, 3)
    centers = grid_centers()
    grid = blobs(centers, _normal(grid_key, 25, 400, 2), 0.3)
    roll = swiss_roll(np.asarray(jax.random.uniform(roll_key, (10_000,))), _normal(noise_key, 10_000, 2))
    none = np.zeros((0, 2), np.float32)
    return (
        _problem("gaussians-far", grid, far, centers, 0.3),
        _problem("gaussians-hard", grid, hard, centers, 0.3),
        _problem("gaussians-near", grid, near(float(far(grid).max())), centers, 0.3),
        _problem("swiss-far", roll, far, none, 0.1),
        _problem("swiss-near", roll, near(float(far(roll).max())), none, 0.1),
    )
