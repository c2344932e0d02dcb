"""Gradient steps and moving averages with traced rates: one compiled program serves a grid of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Tree = Any


class Learner(NamedTuple):
    """Parameters of one network and the state of its optimiser."""

    params: Tree
    opt_state: optax.OptState


def _optimizer(max_grad_norm: jax.Array | float) -> optax.GradientTransformation:
    bound = jnp.where(jnp.asarray(max_grad_norm) > 0, max_grad_norm, jnp.inf)
    return optax.chain(optax.clip_by_global_norm(bound), optax.scale_by_adam())


def learner(params: Tree) -> Learner:
    """A learner with fresh Adam moments (b1 0.9, b2 0.999, eps 1e-8)."""
    return Learner(params, _optimizer(0.0).init(params))


def learners(params: Tree) -> Learner:
    """A learner of each member of an ensemble, stacked on the leading axis as its parameters are."""
    return jax.vmap(learner)(params)


def copies(params: Tree) -> Tree:
    """The same numbers in arrays of their own: how a target network starts."""
    return jax.tree.map(jnp.copy, params)


def learn(
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
    state: Learner,
    rate: jax.Array | float,
    *arguments: Any,
    clip: jax.Array | float = 0.0,
    weight_decay: jax.Array | float = 0.0,
    name: str,
) -> tuple[Learner, dict[str, jax.Array]]:
    """One step down the gradient of ``loss(params, *arguments) -> (value, metrics)``, by Adam at ``rate``.

    ``clip`` is the largest global norm, 0 for none; ``weight_decay`` as in :func:`descend`. The metrics are the loss's
    own and ``NAME/grad_norm``, the norm before clipping.
    """
    grads, metrics = jax.grad(loss, has_aux=True)(state.params, *arguments)
    state, norm = descend(state, grads, rate, clip, weight_decay)
    return state, metrics | {f"{name}/grad_norm": norm}


def learn_each(
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
    state: Learner,
    rate: jax.Array | float,
    *arguments: Any,
    clip: jax.Array | float = 0.0,
    name: str,
) -> tuple[Learner, dict[str, jax.Array]]:
    """:func:`learn` for each member of an ensemble by itself, clipped by its own norm; metrics are means over members.

    ``state`` is made by :func:`learners`, leaves ``(num_members, ...)``; ``loss`` gets the parameters of one member.
    """
    state, metrics = jax.vmap(lambda member: learn(loss, member, rate, *arguments, clip=clip, name=name))(state)
    return state, {metric: jnp.mean(values) for metric, values in metrics.items()}


def descend(
    state: Learner,
    grads: Tree,
    rate: jax.Array | float,
    clip: jax.Array | float = 0.0,
    weight_decay: jax.Array | float = 0.0,
) -> tuple[Learner, jax.Array]:
    """One Adam step after clipping to a global norm; returns the learner and the norm before clipping.

    ``grads`` has the structure of the parameters. The rate multiplies here and not inside the optimiser: a rate that is
    an array would give the optimiser another state than a rate that is a schedule. ``clip <= 0`` means no clipping.
    With ``weight_decay`` every parameter, biases and norms too, also loses ``rate * weight_decay`` times itself (AdamW:
    Loshchilov & Hutter 2017, arXiv 1711.05101).
    """
    updates, opt_state = _optimizer(clip).update(grads, state.opt_state)
    params = jax.tree.map(lambda p, u: p - rate * (u + weight_decay * p), state.params, updates)
    return Learner(params, opt_state), optax.tree.norm(grads)


def cosine_decay(step: jax.Array, decay_steps: jax.Array | float) -> jax.Array:
    """Factor of a rate ``(1 + cos(pi min(step / decay_steps, 1))) / 2``; 1 where ``decay_steps <= 0`` (no decay)."""
    decay_steps = jnp.asarray(decay_steps, jnp.float32)
    fraction = jnp.minimum(step / jnp.where(decay_steps > 0, decay_steps, 1.0), 1.0)
    return jnp.where(decay_steps > 0, 0.5 * (1.0 + jnp.cos(jnp.pi * fraction)), 1.0)


def polyak(target: Tree, online: Tree, rate: jax.Array | float) -> Tree:
    """``(1 - rate) target + rate online``, leaf by leaf: the moving average that a target network is."""
    return optax.incremental_update(online, target, rate)


def ema_rate(step: jax.Array, rate: jax.Array | float, start: jax.Array | int, interval: jax.Array | int) -> jax.Array:
    """``rate`` on steps that are at least ``start`` and divisible by ``interval``, else 0.

    A rate of zero leaves the average bitwise as it was, so no branch is needed and both numbers may be traced.
    """
    return jnp.where((step >= start) & (step % interval == 0), rate, 0.0)
