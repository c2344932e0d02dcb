"""Singlestep DPM-Solver: few evaluations of a noise predictor turn noise into samples, without further randomness.

A step from time ``s`` to ``t`` of order ``o`` evaluates the model ``o`` times. With ``alpha``, ``sigma``,
``lambda = log alpha - log sigma``, ``h = lambda_t - lambda_s`` and the interior times' places
``r = (lambda - lambda_s) / h``, both forms are the same formula in other letters:

| form | model ``M`` | ``c`` | ``w`` | ``k`` |
|---|---|---|---|---|
| noise | ``epsilon`` | alpha | sigma | ``h`` |
| data | ``(x - sigma epsilon) / alpha`` | sigma | alpha | ``-h`` |

* ``base(u, p) = (c_u / c_s) x - w_u (e^(p k) - 1) M_0``, where ``p`` is the place of ``u``;
* order 1: ``base(t, 1)``;
* order 2: ``M_1`` at ``base(u_1, r_1)``; ``base(t, 1) - w_t (e^k - 1) (M_1 - M_0) / (2 r_1)``;
* order 3: ``M_2`` at ``base(u_2, r_2) - (r_2 / r_1) w_u2 ((e^(r_2 k) - 1) / (r_2 k) - 1) (M_1 - M_0)``;
  ``base(t, 1) - (1 / r_2) w_t ((e^k - 1) / k - 1) (M_2 - M_0)``.

So every next point is a sum of ``x`` and the step's ``M_j`` with constant coefficients, which a :class:`Plan` holds.
Sources: Lu et al. 2022, arXiv 2206.00927 (noise form), arXiv 2211.01095 (data form).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion.schedules import ContinuousSchedule

Form = Literal["noise", "data"]


def third_orders(evaluations: int) -> tuple[int, ...]:
    """Orders of so many evaluations, mostly 3: 15 are ``3, 3, 3, 3, 2, 1``; the rest of a division by 3 comes last.

    Source: SfBC, dpm_solver_pytorch.py; EDP, diffusion/dpm_solver.py.
    """
    whole, rest = divmod(evaluations, 3)
    return (3,) * whole + (rest,) if rest else (3,) * (whole - 1) + (2, 1)


def second_orders(evaluations: int) -> tuple[int, ...]:
    """Orders of so many evaluations, mostly 2, which always end in 1: 15 are seven 2 and a 1, 10 four 2 and two 1.

    Source: QGPO, dpm_solver_pytorch.py; the public solver takes nothing but 2 where the number is even.
    """
    whole, rest = divmod(evaluations, 2)
    return (2,) * whole + (1,) if rest else (2,) * (whole - 1) + (1, 1)


class Plan(NamedTuple):
    """Constants of the ``n`` evaluations in the order of calls, float32.

    The model is ``at_x x + at_epsilon epsilon``, evaluated at ``time`` and kept as ``M_slot``; the next point is
    ``of_start x_s + sum_j of_model[j] M_j``, where ``x_s`` is the point at which the step started; ``ends`` where that
    next point is the next step's start. Every field is ``(n,)``, ``of_model (n, highest order)``.
    """

    time: np.ndarray
    at_x: np.ndarray
    at_epsilon: np.ndarray
    slot: np.ndarray
    of_start: np.ndarray
    of_model: np.ndarray
    ends: np.ndarray


def dpm_solver_plan(schedule: ContinuousSchedule, grid: np.ndarray, orders: Sequence[int], form: Form) -> Plan:
    """The plan of steps of ``orders`` over ``grid``, falling times of which a step of order ``o`` takes ``o``.

    Interior times are the grid's own, found as the times of their ``lambda``. Made in the precision of ``grid``.

    Raises:
      ValueError: for an order but 1, 2 and 3, another form, or a grid without ``sum(orders) + 1`` times.
    """
    if not set(orders) <= {1, 2, 3} or len(grid) != sum(orders) + 1:
        raise ValueError(f"orders {tuple(orders)} must be 1, 2 or 3 and take {len(grid) - 1} intervals together")
    if form not in ("noise", "data"):
        raise ValueError(f"form {form!r} is neither 'noise' nor 'data'")
    log_alpha = np.asarray(schedule.log_alpha(grid))
    log_sigma = 0.5 * np.log(-np.expm1(2.0 * log_alpha))
    half_log_snr = log_alpha - log_sigma
    time = np.asarray(schedule.time(half_log_snr))
    log_c, w, sign = (log_alpha, np.exp(log_sigma), 1.0) if form == "noise" else (log_sigma, np.exp(log_alpha), -1.0)
    rows = []
    start = 0
    for order in orders:
        end = start + order
        k = sign * (half_log_snr[end] - half_log_snr[start])
        place = sign * (half_log_snr[start : end + 1] - half_log_snr[start]) / k
        for call in range(order):
            here, following = start + call, start + call + 1
            factor = np.expm1(place[call + 1] * k)
            of_model = np.zeros(max(orders))
            if call == 0:
                slope = 0.0
            elif order == 2:
                slope = factor / (2.0 * place[1])
            else:  # the slope is (M_1 - M_0) / (r_1 h) inside the step, (M_2 - M_0) / (r_2 h) at its end
                slope = (factor / (place[call + 1] * k) - 1.0) * place[call + 1] / place[call]
            of_model[0] = -w[following] * (factor - slope)
            of_model[call] -= w[following] * slope
            model = (0.0, 1.0) if form == "noise" else (np.exp(-log_alpha[here]), -np.exp(-half_log_snr[here]))
            of_start = np.exp(log_c[following] - log_c[start])
            rows.append((grid[here] if call == 0 else time[here], *model, call, of_start, of_model, call == order - 1))
        start = end
    return _plan_of(rows)


def heun_plan(schedule: ContinuousSchedule, grid: np.ndarray) -> Plan:
    """The plan of Heun's method over ``grid``, falling times, a step between each two of them; ``2 n - 1`` evaluations.

    Of ``dx / ds = epsilon`` for ``x / alpha`` and ``s = sigma / alpha``, the ODE in which Euler's method is the noise
    form of order 1, which is DDIM: ``x_t = (alpha_t / alpha_s) x_s + alpha_t (s_t - s_s) (M_0 + M_1) / 2``, where
    ``M_1`` is taken at Euler's point. The last step is Euler's.
    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 1.
    """
    log_alpha = np.asarray(schedule.log_alpha(grid))
    ratio = np.sqrt(np.expm1(-2.0 * log_alpha))
    rows: list[tuple[Any, ...]] = []
    for start, end in itertools.pairwise(range(len(grid))):
        of_start = np.exp(log_alpha[end] - log_alpha[start])
        slope = np.exp(log_alpha[end]) * (ratio[end] - ratio[start])
        is_last = end == len(grid) - 1
        rows.append((grid[start], 0.0, 1.0, 0, of_start, np.array([slope, 0.0]), is_last))
        if not is_last:
            rows.append((grid[end], 0.0, 1.0, 1, of_start, np.array([slope, slope]) / 2.0, True))
    return _plan_of(rows)


def _plan_of(rows: Sequence[tuple[Any, ...]]) -> Plan:
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Plan(*(x.astype(np.float32) if x.dtype.kind == "f" else x for x in columns))


class Solution(NamedTuple):
    """A sample and the evaluations that led to it: ``time (n,)``, ``x`` and ``epsilon (n, *sample)`` in call order."""

    sample: jax.Array
    time: jax.Array
    x: jax.Array
    epsilon: jax.Array


def dpm_solver(
    predict: Callable[[jax.Array, Any], jax.Array], plan: Plan, start: jax.Array, levels: Any = None
) -> Solution:
    """The solution that begins at ``start``, standard normal noise at the plan's first time.

    Args:
      predict: ``(x, level) -> epsilon``; its gradient may be part of it, as in guided sampling.
      levels: what ``predict`` gets at each evaluation, a tree with the leading axis ``n``; the plan's times if None.
    """
    constants = jax.tree.map(jnp.asarray, plan)

    def evaluate(carry: Any, inputs: tuple[Any, Any]) -> tuple[Any, Any]:
        step_start, x, models = carry
        at, level = inputs
        epsilon = predict(x, level)
        model = at.at_x * x + at.at_epsilon * epsilon
        models = tuple(jnp.where(at.slot == slot, model, kept) for slot, kept in enumerate(models))
        weighed = (at.of_model[slot] * kept for slot, kept in enumerate(models))
        following = sum(weighed, start=at.of_start * step_start)
        return (jnp.where(at.ends, following, step_start), following, models), (x, epsilon)

    models = (jnp.zeros_like(start),) * plan.of_model.shape[1]
    inputs = (constants, constants.time if levels is None else levels)
    (_, sample, _), (x, epsilon) = jax.lax.scan(evaluate, (start, start, models), inputs)
    return Solution(sample, constants.time, x, epsilon)
