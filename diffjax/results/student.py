"""Student's t distribution, of any positive and not only whole degrees of freedom; scores need no more of SciPy."""

import math


def two_sided_p(t: float, freedom: float) -> float:
    """P(|T| >= |t|): the regularised incomplete beta function I_x(ν / 2, 1 / 2) at x = ν / (ν + t²)."""
    if t == 0 or math.isinf(t):
        return float(t == 0)
    size = math.hypot(math.sqrt(freedom), t)
    x, y = freedom / size / size, (t / size) ** 2  # x + y = 1; each is exact where it is small
    a, b = freedom / 2, 0.5
    return _incomplete_beta(a, b, x, y) if x < (a + 1) / (a + b + 2) else 1 - _incomplete_beta(b, a, y, x)


def quantile(probability: float, freedom: float) -> float:
    """The t with P(T <= t) = probability, by bisection of ``two_sided_p``; ``ValueError`` outside (0, 1)."""
    if not 0 < probability < 1:
        raise ValueError(f"a probability between 0 and 1 has a quantile, {probability} has none")
    if probability <= 0.5:
        return -quantile(1 - probability, freedom) if probability < 0.5 else 0.0
    low, high, tail = 0.0, 1.0, 2 * (1 - probability)
    while two_sided_p(high, freedom) > tail:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if two_sided_p(middle, freedom) > tail else (low, middle)
    return middle


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """I_x(a, b) at x = 1 - y < (a + 1) / (a + b + 2), by Lentz's method on the continued fraction DLMF 8.17.22."""
    scale = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)) * x**a * y**b / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction, step, m = d, 0.0, 0
    while abs(step - 1) > 3e-15:
        m += 1
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        c, d = 1 + even / c, 1 / (1 + even * d)
        step = c * d
        c, d = 1 + odd / c, 1 / (1 + odd * d)
        step *= c * d
        fraction *= step
    return scale * fraction
