"""A policy as a function of arrays alone: what is exported, and what a file beside it says of its inputs and outputs.

Every row of a batch is decided alone. Random numbers are an input: a key, or the numbers themselves.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

from diffjax.files import whole_file, writable, write_json
from diffjax.numerics import random_key
from diffjax.policy import Policy, act_row
from diffjax.records.entries import to_entries

FORMAT_VERSION = 1
"""Of the description beside an exported policy."""
BATCH = "batch"
"""What stands for the number of rows in a shape."""
_LAWS = {
    "standard normal": stats.norm.cdf,
    "uniform on [0, 1)": stats.uniform.cdf,
    "standard Gumbel": stats.gumbel_r.cdf,
}
_SAMPLES = 2048  # of which a law is recognised
_FIT = 0.05  # the largest distance of their distribution from the law that they are said to have


class Input(NamedTuple):
    """An array that the exported function takes; ``meaning`` says what to give it."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    meaning: str


class Draws(NamedTuple):
    """The random numbers of a decision as inputs, one per array, and the tree that they are leaves of."""

    inputs: tuple[Input, ...]
    treedef: jax.tree_util.PyTreeDef


def draws_of(policy: Policy) -> Draws:
    """What the method's ``draw_action`` makes, leading axis ``batch``, and of what law each number is."""
    method, spec, hyper = policy.method, policy.spec, policy.acting.hyper
    draw = lambda key: method.draw_action(key, spec, hyper)  # noqa: E731
    leaves, treedef = jax.tree_util.tree_flatten_with_path(jax.eval_shape(draw, random_key(0)))
    first = lambda key: [leaf.reshape(-1)[0] for leaf in jax.tree.leaves(draw(key))]  # noqa: E731
    samples = jax.jit(lambda keys: jax.lax.map(first, keys))(jax.random.split(random_key(0), _SAMPLES))
    inputs = [
        Input(
            jax.tree_util.keystr(path, simple=True, separator="_") or "draws",  # a single array has no name
            (BATCH, *leaf.shape),
            str(leaf.dtype),
            f"random numbers, {_law(np.asarray(values))}, all independent",
        )
        for (path, leaf), values in zip(leaves, samples, strict=True)
    ]
    return Draws(tuple(inputs), treedef)


def _law(values: np.ndarray) -> str:
    """The law that numbers are of, by the Kolmogorov distance."""
    with np.errstate(over="ignore"):  # Gumbel's distribution far out on the left
        distances = {name: stats.ks_1samp(values, cdf).statistic for name, cdf in _LAWS.items()}
    best = min(distances, key=distances.__getitem__)
    return best if distances[best] < _FIT else "of a law of the method's own"


def observation_input(policy: Policy) -> Input:
    """What the policy sees."""
    meaning = "as the environment gives it, of any range; the policy's own transform is part of the program"
    return Input("observation", (BATCH, policy.spec.observation_dim), "float32", meaning)


def act_on_draws(policy: Policy, draws: Draws, observation: jax.Array, *arrays: jax.Array) -> jax.Array:
    """Actions ``(batch, action_dim)`` for observations ``(batch, observation_dim)`` and the arrays of ``draws``."""
    rows = jax.tree.unflatten(draws.treedef, arrays)
    decide = lambda row, seen: act_row(row, policy.method, policy.spec, policy.acting, seen)  # noqa: E731
    return policy.in_units(jax.vmap(decide)(rows, observation))


def write_program(
    file: Path, program: bytes | bytearray, form: str, call: str, policy: Policy, inputs: tuple[Input, ...]
) -> None:
    """An exported policy, and the ``.json`` beside it: sizes, ranges, random inputs, score and source run.

    Args:
      call: how the file is loaded and called, as lines of Python.

    Raises:
      UserError: they cannot be written.
    """
    dim, bounds = policy.spec.action_dim, policy.action_bounds
    ends = [-1.0, 1.0] if bounds is None else [list(bounds.low), list(bounds.high)]
    action = {"name": "action", "shape": [BATCH, dim], "dtype": "float32", "range": ends}
    content = {
        "format_version": FORMAT_VERSION,
        "format": form,
        "file": file.name,
        "inputs": [one._asdict() for one in inputs],
        "outputs": [action],
        "call": call.splitlines(),
        "policy": to_entries(policy.about),
    }
    with writable(file):
        with whole_file(file) as temporary:
            temporary.write_bytes(program)
        write_json(file.with_suffix(".json"), content)
