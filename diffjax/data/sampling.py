"""Choosing the rows of a minibatch: uniformly with replacement, or by shuffled passes without.

Both are pure functions of (key, step): nothing is carried, so that a run resumes anywhere. Positions index a run's own
transitions ``0..size-1``; ``size`` is traced.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffjax.types import SAMPLINGS

ROUNDS = 4


def uniform_positions(key: jax.Array, step: jax.Array, batch_size: int, size: jax.Array) -> jax.Array:
    """``batch_size`` positions drawn with replacement, ``(batch_size,)`` int32."""
    return jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, size)


def permute(key: jax.Array, position: jax.Array, size: jax.Array) -> jax.Array:
    """A keyed bijection of ``0..size-1`` applied to ``position``; no permutation is stored.

    Rounds of multiply, add and shifted xor, each a bijection of the ``k``-bit integers with ``2^(k-1) < size <= 2^k``;
    a result outside the range is walked along its cycle until it falls inside (fewer than two walks on average).
    """
    size = jnp.asarray(size, jnp.uint32)
    bits = jnp.maximum(32 - jax.lax.clz(size - 1), 2).astype(jnp.uint32)
    mask = jnp.where(bits >= 32, jnp.uint32(0xFFFFFFFF), (jnp.uint32(1) << bits) - 1)
    factors, terms = jax.random.bits(key, (2, ROUNDS))

    def scramble(x: jax.Array) -> jax.Array:
        for factor, term in zip(factors, terms, strict=True):
            x = (x * (factor | 1) + term) & mask
            x = x ^ (x >> ((bits + 1) // 2))
        return x

    def walk(x: jax.Array) -> jax.Array:
        return jnp.where(x >= size, scramble(x), x)

    start = scramble(position.astype(jnp.uint32))
    inside = jax.lax.while_loop(lambda x: jnp.any(x >= size), walk, start)
    return inside.astype(jnp.int32)


def shuffled_positions(key: jax.Array, step: jax.Array, batch_size: int, size: jax.Array) -> jax.Array:
    """The positions of minibatch ``step`` when every pass over the data is freshly shuffled, ``(batch_size,)`` int32.

    A pass holds ``size // batch_size`` minibatches; the short one at its end is dropped. With fewer transitions than
    ``batch_size`` positions wrap around.
    """
    per_pass = jnp.maximum(size // batch_size, 1)
    pass_key = jax.random.fold_in(key, step // per_pass)
    position = (step % per_pass) * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    return permute(pass_key, position % size, size)


def offline_rows(fraction: jax.Array | float, batch_size: int) -> jax.Array:
    """How many rows of a minibatch come from the data where the others are a run's own: ``round(fraction b)``, int32.

    A number and not a draw, so that every minibatch is mixed alike (RLPD: half).
    """
    return jnp.round(jnp.asarray(fraction, jnp.float32) * batch_size).astype(jnp.int32)


POSITIONS: dict[str, Callable[..., jax.Array]] = dict(
    zip(SAMPLINGS, (uniform_positions, shuffled_positions), strict=True)
)
