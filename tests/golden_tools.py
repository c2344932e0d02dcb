"""Recorded numbers of the authors' programs: reading, converting, comparing, and accounting for all of them.

``tests/goldens`` holds the recordings; ``DIFFJAX_GOLDENS=DIR`` runs the same tests on another such folder, and
``DIFFJAX_GOLDEN_ERRORS=FILE`` collects every error, of which ``tests/golden_errors.py`` makes a table. Everything that
describes a problem (sizes, rates, counts) comes from the recording's json.
"""

import functools
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion.samplers import ChainNoise
from diffjax.types import Batch

FOLDER = pathlib.Path(os.environ.get("DIFFJAX_GOLDENS") or pathlib.Path(__file__).parent / "goldens")

# What a recording holds besides results: the problem's inputs.
INPUT_PARTS = {"batch", "ex_batch", "draws"}


class Golden:
    """One recording. Reading a key marks it as used; :meth:`unused` lists results that no test looked at."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.info: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
        self.hyper: dict[str, Any] = self.info["hyper_parameters"]
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
            self.arrays = {key: arrays[key] for key in arrays.files}
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> np.ndarray:
        self.used.add(key)
        return self.arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def keys(self, prefix: str) -> list[str]:
        """All keys below ``prefix``."""
        return [key for key in self.arrays if key.startswith(prefix)]

    def tree(self, prefix: str) -> dict[str, Any]:
        """Nested dict of all arrays below ``prefix/``."""
        root: dict[str, Any] = {}
        for key in self.keys(prefix + "/"):
            *folders, leaf = key[len(prefix) + 1 :].split("/")
            node = root
            for folder in folders:
                node = node.setdefault(folder, {})
            node[leaf] = jnp.asarray(self[key])
        assert root, f"{self.name} holds nothing below {prefix}"
        return root

    def batch(self, prefix: str) -> Batch:
        """The minibatch below ``prefix``."""
        names = ("obs", "actions", "rewards", "next_obs", "not_done")
        return Batch(*(jnp.asarray(self[f"{prefix}/{name}"]) for name in names))

    def groups(self, prefix: str, depth: int = 1) -> list[str]:
        """Distinct keys cut after ``depth`` parts, of those below ``prefix``; in the order of the file."""
        return list(dict.fromkeys("/".join(key.split("/")[:depth]) for key in self.keys(prefix)))

    def scenarios(self) -> list[str]:
        """The training scenarios: ``train``, ``train_ema``, ..."""
        return self.groups("train")

    def steps(self, scenario: str) -> list[str]:
        """``scenario/step1``, ``scenario/step2``, ..."""
        numbered = (f"{scenario}/step{number}" for number in itertools.count(1))
        return list(itertools.takewhile(lambda step: self.keys(step + "/"), numbered))

    def chain_noise(self, prefix: str, repeats: int | None = None) -> ChainNoise:
        """Noise ``prefix + x_T`` and ``prefix + z`` of a chain; ``repeats`` rows per state get an axis."""
        arrays = (jnp.asarray(self[prefix + name]) for name in ("x_T", "z"))
        return ChainNoise(*(x if repeats is None else per_state(x, repeats) for x in arrays))

    def close(self, key: str, actual: Any, scale: float = 1e-5) -> None:
        """:func:`assert_close` with the recorded array ``key``."""
        assert_close(actual, self[key], f"{self.name}: {key}", scale)

    def absolute(self, key: str, actual: Any, bound: float, kind: str = "parameter", unit: float = 1.0) -> None:
        """:func:`assert_absolute` with the recorded array ``key``."""
        assert_absolute(actual, self[key], f"{self.name}: {key}", bound, kind, unit)

    def equal(self, key: str, actual: Any) -> None:
        """Exact equality with the recorded array ``key``: counters, flags, indices."""
        np.testing.assert_array_equal(actual, self[key], f"{self.name}: {key}", strict=False)

    def trees(self, prefix: str, actual: Any, bound: float) -> None:
        """:func:`assert_trees` with all arrays below ``prefix/``."""
        assert_trees(actual, self.tree(prefix), f"{self.name}: {prefix}", bound)

    def gradients(self, prefix: str, actual: Any, scale: float = 2e-5, floor: float = 1e-2) -> None:
        """:func:`assert_gradients` with all arrays below ``prefix/``."""
        assert_gradients(actual, self.tree(prefix), f"{self.name}: {prefix}", scale, floor)

    def unused(self, exempt: tuple[str, ...] = ()) -> list[str]:
        """Recorded results that no test has read, but for inputs and keys with a part of ``exempt``."""
        return sorted(
            key
            for key in self.arrays
            if key not in self.used
            and not set(exempt).intersection(key.split("/"))
            and not INPUT_PARTS.intersection(key.split("/")[:-1])
        )


def marks(name: str, slow: Iterable[str]) -> Any:
    """What a test of a recording is marked with: some are among the slow, unless another folder is to be proven."""
    return pytest.mark.slow if name in slow and not os.environ.get("DIFFJAX_GOLDENS") else ()


def parametrized(names: Iterable[str], slow: Iterable[str]) -> Any:
    """A test of every recording of these names, of which some compile for so long that they are among the slow."""
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name, slow)) for name in names])


@functools.cache
def load(name: str) -> Golden:
    """The recording called ``name``, read once per process."""
    return Golden(name)


def plain(tree: Any) -> Any:
    """Recorded layers as the parameters of an MLP."""
    return {"params": tree}


def noise_network(tree: Any) -> Any:
    """Recorded layers as the parameters of a ``NoiseNetwork``: time layers apart, the others in its trunk."""
    time = {name: layer for name, layer in tree.items() if name.startswith("time_")}
    return {"params": time | {"trunk": {name: layer for name, layer in tree.items() if name not in time}}}


def in_trunk(tree: Any) -> Any:
    """Recorded layers as the parameters of a network whose layers all sit in its trunk."""
    return {"params": {"trunk": tree}}


def layers(params: Any) -> Any:
    """Parameters (or gradients) of any network in the recorded layout: the inverse of the three above."""
    tree = params["params"]
    return {name: layer for name, layer in tree.items() if name != "trunk"} | tree.get("trunk", {})


def cosine_factor(step: int, decay_steps: float) -> float:
    """``(1 + cos(pi min(step, N) / N)) / 2``: the authors' decay after ``step`` updates."""
    return float(0.5 * (1.0 + np.cos(np.pi * min(step, decay_steps) / decay_steps)))


def per_state(rows: Any, repeats: int) -> Any:
    """``(..., states * repeats, dim)`` with consecutive rows per state as ``(..., states, repeats, dim)``."""
    return rows.reshape(*rows.shape[:-2], -1, repeats, rows.shape[-1])


def account(name: str, checks: Iterable[Callable[[Golden], None]], exempt: tuple[str, ...] = ()) -> None:
    """Runs all checks of a file on a fresh reading and asserts that they looked at every result but the exempt ones."""
    golden = Golden(name)
    for check in checks:
        check(golden)
    assert golden.unused(exempt) == []


def changed(before: Any, after: Any) -> bool:
    """Whether any number of a tree differs, bit for bit."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(not np.array_equal(x, y) for x, y in pairs)


def stack(*trees: Any) -> Any:
    """Trees of equal structure stacked on a new leading axis (twin critics are one ensemble here)."""
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


def _collect(kind: str, what: str, error: np.ndarray) -> None:
    """Adds an error to those that are asked for; a line ``recording, kind, largest``."""
    if (path := os.environ.get("DIFFJAX_GOLDEN_ERRORS")) and error.size:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{what.partition(':')[0]},{kind},{float(np.max(error)):.3e}\n")


def assert_close(actual: Any, expected: Any, what: str, scale: float = 1e-5) -> None:
    """``|actual - expected| <= scale (1 + |expected|)`` elementwise: forward passes, losses, targets."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, recorded {expected.shape}"
    error = np.abs(actual - expected) / (1.0 + np.abs(expected))
    _collect("value", what, error)
    assert np.all(error <= scale), f"{what}: off by {np.max(error):.2e} relative to 1 + |recorded| (bound {scale})"


def assert_absolute(
    actual: Any, expected: Any, what: str, bound: float, kind: str = "parameter", unit: float = 1.0
) -> None:
    """``|actual - expected| <= bound`` elementwise: parameters after steps (2e-5), duals (1e-6).

    ``kind`` and ``unit`` are what the error is called, and divided by, where errors are collected.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, recorded {expected.shape}"
    error = np.abs(actual - expected)
    _collect(kind, what, error / unit)
    assert np.all(error <= bound), f"{what}: off by {np.max(error):.2e} (bound {bound})"


def assert_trees(actual: Any, expected: Any, what: str, bound: float) -> None:
    """Parameter trees of the same structure, each tensor within ``bound`` absolute."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected), f"{what}: other structure"
    for path, value in jax.tree_util.tree_leaves_with_path(expected):
        leaf = functools.reduce(lambda node, key: node[key.key], path, actual)
        assert_absolute(leaf, value, what + jax.tree_util.keystr(path), bound)


def assert_gradients(actual: Any, expected: Any, what: str, scale: float = 2e-5, floor: float = 1e-2) -> None:
    """Gradient trees of one network; each tensor within ``scale`` times its own largest recorded magnitude.

    A tensor that is all but zero beside the network's largest gradient is the sum of terms that cancel: its bound is
    that of the share ``floor`` of the largest.
    """
    network = max(float(np.max(np.abs(value))) for value in jax.tree.leaves(expected))
    assert jax.tree.structure(actual) == jax.tree.structure(expected), f"{what}: other structure"
    for path, value in jax.tree_util.tree_leaves_with_path(expected):
        leaf = functools.reduce(lambda node, key: node[key.key], path, actual)
        largest = float(np.max(np.abs(value)))
        unit = max(largest, floor * network)
        assert_absolute(leaf, value, what + jax.tree_util.keystr(path), scale * unit, "gradient", unit)
