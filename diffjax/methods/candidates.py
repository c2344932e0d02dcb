"""Acting by choice: several candidate actions are drawn and ranked by a critic."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.methods.base import ActingCost


class ActionDraws(NamedTuple):
    """Random numbers of one decision: what all candidates are made of, and the uniform that selects one."""

    noise: Any
    uniform: jax.Array


def chosen(action: jax.Array, index: jax.Array) -> jax.Array:
    """``action[index]``, of ``(candidates, action_dim)``, as a masked sum: exact, and without a gather."""
    is_chosen = jnp.arange(action.shape[0]) == index
    return jnp.sum(jnp.where(is_chosen[:, None], action, 0.0), axis=0)


def softmax_choice(action: jax.Array, value: jax.Array, uniform: jax.Array) -> jax.Array:
    """One of the candidates ``(candidates, action_dim)``, drawn from the softmax of its raw value (temperature 1)."""
    index, _ = losses.softmax_selection(value, uniform)
    return chosen(action, index)


def gumbel_choice(action: jax.Array, logits: jax.Array, gumbel: jax.Array) -> jax.Array:
    """One of the candidates, drawn from the softmax of ``logits`` by standard Gumbel noise, ``(candidates,)`` both."""
    return chosen(action, jnp.argmax(logits + gumbel))


def softmax_indices(logits: jax.Array, uniform: jax.Array) -> jax.Array:
    """Indices drawn from ``softmax(logits)`` with replacement, one per uniform number, by inversion."""
    return jax.vmap(lambda one: losses.softmax_selection(logits, one)[0])(uniform)


def num_uniforms(count: int) -> int:
    """The uniform numbers that :func:`successive_indices` may need: some of each round are found already."""
    return count * (count + 1) // 2


def successive_indices(probability: jax.Array, uniform: jax.Array, count: int) -> jax.Array:
    """``count`` different indices drawn without replacement, ``(count,)``; one after the other, as if renormalised.

    In rounds: as many uniform numbers as are missing are looked up in the cumulative probabilities of what the rounds
    before have not found; one found twice counts once. ``uniform`` has :func:`num_uniforms` numbers in ``[0, 1)``.
    Source: NumPy's choice without replacement, by which SfBC's program selects.
    """
    chex.assert_shape(uniform, (num_uniforms(count),))
    places = jnp.arange(count)

    def look_up(carry: Any, number: jax.Array) -> tuple[Any, None]:
        index, found, taken, barred, left = carry
        is_new_round = left == 0
        barred = jnp.where(is_new_round, taken, barred)
        left = jnp.where(is_new_round, count - found, left)
        cumulative = jnp.cumsum(jnp.where(barred, 0.0, probability))
        one = jnp.minimum(jnp.sum(cumulative <= number * cumulative[-1]), probability.shape[0] - 1)
        is_new = ~taken[one] & (found < count)
        index = jnp.where(is_new & (places == found), one, index)
        return (index, found + is_new, taken.at[one].max(is_new), barred, left - 1), None

    nothing = jnp.zeros(probability.shape, bool)
    start = (jnp.zeros(count, jnp.int32), jnp.int32(0), nothing, nothing, jnp.int32(count))
    (index, *_), _ = jax.lax.scan(look_up, start, uniform)
    return index


def selection_logits(value: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Logits among candidates: the values themselves at temperature 0, else ``q / (|q| + 1e-6) / temperature``.

    Source: DAC, agents/dac.py.
    """
    positive = jnp.asarray(temperature) > 0
    scaled = value / (jnp.abs(value) + 1e-6) / jnp.where(positive, temperature, 1.0)
    return jnp.where(positive, scaled, value)


def tempered_choice(
    action: jax.Array, value: jax.Array, gumbel: jax.Array, temperature: jax.Array | float
) -> jax.Array:
    """The best of the candidates at temperature 0, else one drawn from the softmax of :func:`selection_logits`.

    ``gumbel (candidates,)`` is standard Gumbel noise.
    """
    noise = jnp.where(jnp.asarray(temperature) > 0, gumbel, 0.0)
    return gumbel_choice(action, selection_logits(value, temperature), noise)


def softmax_cost(candidates: int, network_evaluations: int, value: str = "min target Q") -> ActingCost:
    """The cost of a decision drawn from the softmax of the candidates' ``value``; one candidate is not ranked."""
    rule = f"softmax of {value} over {candidates}" if candidates > 1 else "single sample"
    return ActingCost(candidates, network_evaluations, rule)
