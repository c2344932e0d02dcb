"""What one device can do at best: the two numbers that every measurement is set beside."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax.launch import benchmark
from diffjax.numerics import random_key

SMALLEST_PRODUCT, LARGEST_PRODUCT = 256, 16_384
LONGEST_PRODUCT_S = 0.05
COPIED_ON_CPU, COPIED_ELSEWHERE = 2**28, 2**31  # bytes, more than caches hold
REPEATS = 5


class Ceilings(NamedTuple):
    """The best of a device in this process."""

    matmul_gflop_per_s: dict[int, float]  # of square float32 products, by size
    copy_gb_per_s: float  # read and written

    @property
    def gflop_per_s(self) -> float:
        """Of the best product."""
        return max(self.matmul_gflop_per_s.values())


def measure(measuring: benchmark.Measuring) -> Ceilings:
    """Both ceilings, at the precision of matrix products that is set."""
    measuring.begin("ceilings")
    found = Ceilings(matmul_ceiling(), copy_ceiling())
    measuring.done(f"float32 matrix product: {found.gflop_per_s:,.0f} GFLOP/s, copy: {found.copy_gb_per_s:,.0f} GB/s")
    return found


def matmul_ceiling() -> dict[int, float]:
    """GFLOP/s of square float32 products by size, on one device; sizes double as long as a product is quick."""
    found = {}
    size, elapsed = SMALLEST_PRODUCT, 0.0
    multiply = jax.jit(jnp.matmul)
    while size <= LARGEST_PRODUCT and elapsed < LONGEST_PRODUCT_S:
        left, right = jax.random.normal(random_key(0), (2, size, size))
        elapsed = _quickest(lambda: multiply(left, right))  # noqa: B023  called at once
        found[size] = 2e-9 * size**3 / elapsed
        size *= 2
    return found


def copy_ceiling() -> float:
    """GB/s, read and written, of negating a large array in place, which costs as much as copying it."""
    size = COPIED_ON_CPU if jax.default_backend() == "cpu" else COPIED_ELSEWHERE
    array = jnp.ones(size // 4, jnp.float32)
    negate = jax.jit(jnp.negative, donate_argnums=0)

    def negated() -> jax.Array:
        nonlocal array
        array = negate(array)
        return array

    return 2e-9 * size / _quickest(negated)


def _quickest(call: Callable[[], Any]) -> float:
    """Seconds of the quickest of some calls, after one that compiles."""
    benchmark.seconds(call)
    return min(benchmark.seconds(call) for _ in range(REPEATS))
