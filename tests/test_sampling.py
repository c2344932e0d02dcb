"""Choosing rows: bijections, laws, and independence of everything but (key, step)."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffjax.data.sampling import permute, shuffled_positions, uniform_positions

LARGEST = 300


@given(st.integers(1, LARGEST), st.integers(0, 2**31 - 1))
def test_permute_is_a_bijection(size, seed):
    positions = np.minimum(np.arange(LARGEST), size - 1)  # of one shape, so that it compiles once
    found = np.asarray(jax.jit(permute)(jax.random.key(seed), positions, jnp.int32(size)))
    assert sorted(found[:size].tolist()) == list(range(size))


def test_permute_near_the_largest_size():
    size = 2**31 - 1
    some = permute(jax.random.key(0), jnp.arange(1000), jnp.int32(size))
    assert len(set(np.asarray(some).tolist())) == 1000
    assert np.all(np.asarray(some) >= 0)


def test_permutations_look_random():
    """Over many keys every position lands everywhere equally often, and neighbours do not stay together."""
    size, keys = 37, 4000
    landed = jax.vmap(lambda key: permute(key, jnp.arange(size), jnp.int32(size)))(
        jax.random.split(jax.random.key(1), keys)
    )
    counts = np.stack([np.bincount(column, minlength=size) for column in np.asarray(landed).T])
    statistic = ((counts - keys / size) ** 2 / (keys / size)).sum(axis=1) / (size - 1)
    assert np.all(statistic < 3.0)
    together = np.mean(np.abs(np.diff(np.asarray(landed), axis=1)) == 1)
    assert together < 3 * 2 / size


def test_a_pass_meets_every_row_once_and_the_next_is_another():
    size, batch = 103, 10
    key = jax.random.key(3)
    passes = [
        np.concatenate(
            [np.asarray(shuffled_positions(key, jnp.int32(number * 10 + i), batch, jnp.int32(size))) for i in range(10)]
        )
        for number in range(2)
    ]
    for positions in passes:
        assert len(set(positions.tolist())) == 100
        assert positions.max() < size
    assert passes[0].tolist() != passes[1].tolist()


def test_fewer_rows_than_a_batch():
    positions = shuffled_positions(jax.random.key(0), jnp.int32(5), 8, jnp.int32(3))
    assert set(np.asarray(positions).tolist()) == {0, 1, 2}


def test_uniform_positions_cover_the_range_and_depend_on_the_step():
    first = uniform_positions(jax.random.key(0), jnp.int32(0), 5000, jnp.int32(7))
    second = uniform_positions(jax.random.key(0), jnp.int32(1), 5000, jnp.int32(7))
    assert set(np.asarray(first).tolist()) == set(range(7))
    assert np.mean(np.asarray(first) == np.asarray(second)) < 0.2
