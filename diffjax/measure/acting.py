"""What one action costs: latency, throughput, work and memory of a policy, and the score that it reaches for that."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import library
from diffjax.data.observations import ObservationTransform
from diffjax.errors import UserError
from diffjax.experiment.settings import Protocol, join_setting, parse_setting
from diffjax.experiment.stored import StoredRuns
from diffjax.launch import benchmark
from diffjax.launch.benchmark import Case
from diffjax.measure import programs
from diffjax.measure.ceilings import Ceilings
from diffjax.measure.host_loop import HostLoop
from diffjax.numerics import random_key
from diffjax.policy import Policy, policy_of
from diffjax.records.folder import find_folders, read_config, read_status
from diffjax.training.flops import dot_bytes, dot_flops
from diffjax.training.program import Acting

# States times candidates. Wider batches are mapped over slices: memory is bounded, and on a CPU activations stay in
# its caches.
ROWS_ON_CPU, ROWS_ELSEWHERE = 2048, 131_072
LEAST_CALLS = 3
LEAST_CALLS_OF_P95, LEAST_CALLS_OF_P99 = 20, 100
FRESH = "fresh"


class Scored(NamedTuple):
    """What trained runs of one setting reach: means of normalised scores over the seeds."""

    score: float | None = None
    score_std: float | None = None  # over the seeds, population
    score_seeds: int | None = None
    score_episodes: int | None = None  # of each seed


class Subject(NamedTuple):
    """A policy that is measured; ``source`` names the folder of a trained one, ``acting`` makes or has parameters."""

    case: Case
    acting: Callable[[], Acting]
    source: str = FRESH
    policies: tuple[Policy, ...] = ()  # of all seeds of a trained one, the measured one first


class Latency(NamedTuple):
    """A policy at one batch size; ``label`` is how tables call it."""

    label: str
    method: str
    variant: str
    setting: str
    task: str
    observation_dim: int
    action_dim: int
    candidates: int
    network_evaluations: int  # per action, one after the other
    selection: str
    parameters: str  # FRESH, or the folder of the trained run
    matmul_precision: str
    batch: int
    slice: int  # states computed at once
    calls: int
    p50_ms: float
    p95_ms: float | None
    p99_ms: float | None
    actions_per_s: float
    compile_s: float | None  # None where programs were compiled side by side, as the next two
    first_call_cold_s: float | None  # traced and compiled
    first_call_warm_s: float | None  # traced, and taken from the persistent cache
    published_ms: float | None  # p50 of the same as a loop on the host
    published_dispatches: int | None
    gain: float | None  # published_ms / p50_ms
    gflop: float  # matrix products of one call
    xla_gflop: float | None
    dot_mib: float  # operands and results of these products
    xla_mib: float | None
    product_share: float  # of the best matrix product
    copy_share: float  # of the copy's bandwidth, were everything moved that the products read and write
    gflop_per_s: float  # of the best product in the same process
    copy_gb_per_s: float
    peak_mib: float
    peak_source: str
    score: float | None
    score_std: float | None
    score_seeds: int | None
    score_episodes: int | None


def fresh(case: Case) -> Subject:
    """A method with parameters that are initialised when they are first asked for; observations pass as they are."""

    @functools.cache
    def acting() -> Acting:
        hyper, dim = jax.tree.map(jnp.asarray, case.hyper), case.spec.observation_dim
        raw = ObservationTransform(jnp.zeros(dim), jnp.ones(dim))
        return Acting(case.method.init(random_key(0), case.spec, hyper), hyper, raw)

    return Subject(case, acting)


def trained(
    roots: Iterable[str],
    settings: Sequence[str],
    seeds: Sequence[int] | None = None,
    chosen: Sequence[str] | None = None,
    precision: str = "highest",
) -> list[Subject]:
    """The finished runs in some folders, seeds together, acting by every one of ``settings`` (``"candidates=4"``).

    ``seeds`` and ``chosen``, settings of the training, are those taken; None: all. They act, and are scored, with
    matrix products of ``precision``, whatever they were trained with.

    Raises:
      UserError: a folder holds no runs or none that finished, or training reads what a setting changes.
    """
    folders = [folder for folder in find_folders(roots) if read_config(folder).again is None]
    found = [one for folder in folders for one in _of_folder(folder, settings, seeds, chosen, precision)]
    labels = [one.case.label for one in found]
    if len(set(labels)) < len(labels):
        found = [one._replace(case=one.case._replace(task=one.source)) for one in found]
    return found


def _of_folder(
    folder: Path,
    settings: Sequence[str],
    seeds: Sequence[int] | None,
    chosen: Sequence[str] | None,
    precision: str,
) -> Iterator[Subject]:
    stored = StoredRuns(folder)
    config = stored.config
    failed = {one.run for one in read_status(folder) if one.state == "failed"}
    for own in stored.subset("setting", None if chosen is None else tuple(chosen)):
        runs = [config.run(seed, own) for seed in stored.subset("seed", None if seeds is None else tuple(seeds))]
        found = [policy_of(stored, run) for run in runs if run not in failed]
        policies = [replace(one, about=replace(one.about, matmul_precision=precision)) for one in found]
        if not policies:
            raise UserError(f"{folder} has no run of setting {own!r} that did not fail; leave it out")
        for setting in settings:
            values = parse_setting(setting)
            acting = tuple(policy.with_acting(**values) if values else policy for policy in policies)
            first = acting[0]
            name = join_setting(parse_setting(own) | values)
            hyper = first.acting.hyper
            case = Case(config.method, config.variant, stored.method, hyper, Protocol(), first.spec, name, config.task)
            yield Subject(case, functools.partial(jax.tree.map, jnp.asarray, first.acting), str(folder), acting)


def score(subject: Subject, episodes: int) -> Scored:
    """Plays episodes with all policies of a trained setting, as they act here."""
    if not subject.policies or not episodes:
        return Scored()
    found = [library.evaluate(policy, episodes=episodes, seed=policy.about.seed).score for policy in subject.policies]
    scores = [one for one in found if one is not None]
    if not scores:
        return Scored(None, None, len(found), episodes)
    return Scored(statistics.fmean(scores), statistics.pstdev(scores), len(scores), episodes)


def rows_at_once(asked: int | None) -> int:
    """States times candidates that are computed at once, as asked for or by the device."""
    return asked or (ROWS_ON_CPU if jax.default_backend() == "cpu" else ROWS_ELSEWHERE)


def states_at_once(batch: int, candidates: int, rows: int) -> int:
    """The batch in even slices of at most ``rows`` candidates, or of one state."""
    slices = math.ceil(batch / max(1, rows // candidates))
    return math.ceil(batch / slices)


def act_program(case: Case, batch: int, at_once: int) -> Callable[..., jax.Array]:
    """``(acting, key, number, observation (batch, observation_dim)) -> action (batch, action_dim)``."""

    def act(acting: Acting, key: jax.Array, number: jax.Array, observation: jax.Array) -> jax.Array:
        def decide(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
            seen = acting.observation(inputs[1])
            return acting.as_recorded(case.method.sample_action(inputs[0], case.spec, acting.state, acting.hyper, seen))

        key = jax.random.fold_in(key, number)
        if batch == 1:
            return decide((key, observation[0]))[None]
        inputs = jax.random.split(key, batch), observation
        return jax.vmap(decide)(inputs) if at_once == batch else jax.lax.map(decide, inputs, batch_size=at_once)

    return act


class Actor:
    """A policy at one batch size, compiled; as a loop on the host too where that is asked for."""

    def __init__(self, subject: Subject, batch: int, rows: int, as_published: bool, is_started: bool) -> None:
        self.subject, self.batch = subject, batch
        case = subject.case
        self.cost = case.method.cost(case.hyper)
        self.at_once = states_at_once(batch, self.cost.candidates, rows)
        self.arguments = subject.acting(), random_key(1)
        self.observation = np.random.default_rng(0).normal(size=(batch, case.spec.observation_dim)).astype(np.float32)
        self.peak_before = programs.device_peak()
        act = act_program(case, batch, self.at_once)
        example = (*self.arguments, np.int32(0), self.observation)
        self.times: list[float] = []

        def start() -> tuple[Any, jax.Array]:
            compiled, taken = benchmark.compile_program(jax.jit(act), *example)
            self.times.append(taken)
            return compiled, compiled(*example)

        self.starts = programs.Starts()
        if is_started:
            (self.compiled, _), self.starts = programs.started(start)
        else:
            self.compiled, _ = start()
        traced = jax.make_jaxpr(act)(*example)
        self.gflop, self.dot_mib = 1e-9 * dot_flops(traced), dot_bytes(traced) / programs.MIB
        self.published = HostLoop(act, *example) if as_published else None
        if self.published is not None:
            self.published(*example)  # compiles

    def act(self, number: int) -> np.ndarray:
        """Actions in host memory, ``(batch, action_dim)``."""
        return np.asarray(self.compiled(*self.arguments, np.int32(number), self.observation))

    def act_as_published(self, number: int) -> np.ndarray:
        """The same by a loop on the host."""
        assert self.published is not None
        return np.asarray(self.published(*self.arguments, np.int32(number), self.observation))


def timed(act: Callable[[int], Any], calls: int, budget_s: float) -> np.ndarray:
    """Seconds of as many calls as asked for, or as the time allows, after warm-up."""

    def times(count: int) -> list[float]:
        found = []
        for number in range(count):
            start = time.perf_counter()
            act(number)
            found.append(time.perf_counter() - start)
        return found

    (first,) = times(1)
    estimate = first if first > budget_s / LEAST_CALLS else min(times(LEAST_CALLS))
    calls = max(min(calls, LEAST_CALLS), min(calls, int(budget_s / estimate)))
    times(calls // 10)
    return np.array(times(calls))


def measure(actor: Actor, ceilings: Ceilings, calls: int, budget_s: float, precision: str, scored: Scored) -> Latency:
    """Times the calls, those of the loop on the host after the others."""
    subject, case = actor.subject, actor.subject.case
    taken = timed(actor.act, calls, budget_s)
    median = float(np.median(taken))
    published = None
    if actor.published is not None:
        published = float(np.median(timed(actor.act_as_published, calls, budget_s)))
    said = programs.analysis(actor.compiled)

    def percentile(which: int, least: int) -> float | None:
        return 1e3 * float(np.percentile(taken, which)) if len(taken) >= least else None

    return Latency(
        label=case.label,
        method=case.name,
        variant=case.variant,
        setting=case.setting,
        task=case.task,
        observation_dim=case.spec.observation_dim,
        action_dim=case.spec.action_dim,
        candidates=actor.cost.candidates,
        network_evaluations=actor.cost.network_evaluations,
        selection=actor.cost.selection,
        parameters=subject.source,
        matmul_precision=precision,
        batch=actor.batch,
        slice=actor.at_once,
        calls=len(taken),
        p50_ms=1e3 * median,
        p95_ms=percentile(95, LEAST_CALLS_OF_P95),
        p99_ms=percentile(99, LEAST_CALLS_OF_P99),
        actions_per_s=actor.batch * len(taken) / float(taken.sum()),
        compile_s=actor.times[0] if actor.starts.cold_s is not None else None,
        first_call_cold_s=actor.starts.cold_s,
        first_call_warm_s=actor.starts.warm_s,
        published_ms=None if published is None else 1e3 * published,
        published_dispatches=None if actor.published is None else actor.published.dispatches,
        gain=None if published is None else published / median,
        gflop=actor.gflop,
        xla_gflop=said.gflop,
        dot_mib=actor.dot_mib,
        xla_mib=said.mib,
        product_share=actor.gflop / median / ceilings.gflop_per_s,
        copy_share=1e-9 * programs.MIB * actor.dot_mib / median / ceilings.copy_gb_per_s,
        gflop_per_s=ceilings.gflop_per_s,
        copy_gb_per_s=ceilings.copy_gb_per_s,
        **programs.peak(actor.peak_before, said)._asdict(),
        **scored._asdict(),
    )


def notes(rows: Sequence[Latency]) -> list[str]:
    """What the columns mean."""
    found = [
        "a call: observations in host memory to actions in host memory, random numbers drawn within",
        "slice: how many states of the batch are computed at once",
        f"p95 from {LEAST_CALLS_OF_P95} calls on, p99 from {LEAST_CALLS_OF_P99}; actions/s: over all calls",
        "first call: traced, compiled and computed; warm: programs dropped from memory, found in a persistent cache",
        "as published: the same numbers by a loop on the host, a dispatch for each iteration of a loop of the program "
        "and for what lies between two; operations of one dispatch are fused, which published programs do not",
        "GFLOP and MiB: matrix products and what they read and write, loops as often as they run; XLA's own count in "
        "the CSV has the body of a loop once and everything that is no product",
        "shares: of the best matrix product and of the bandwidth of a copy, measured in this process; above 100 % of "
        "the latter the products find their operands in caches",
    ]
    if any(row.parameters == FRESH for row in rows):
        found.insert(0, "freshly initialised parameters where no run is named: the time does not depend on them")
    if sources := {row.peak_source for row in rows}:
        said = {
            programs.ON_DEVICE: "the device's own count of bytes in use",
            programs.BY_COMPILER: "the compiler's analysis of the program: arguments, results, temporaries",
        }
        found.append("peak memory: " + "; ".join(f"{name}: {said[name]}" for name in sorted(sources)))
    if any(row.score is not None for row in rows):
        found.append("score: mean normalised score over the seeds, of the very setting that was timed")
    return found


def pareto_points(rows: Sequence[Latency]) -> Mapping[str, Latency]:
    """The rows of the smallest batch that have a score, by what they are called in a plot."""
    least = min(row.batch for row in rows)
    return {row.label: row for row in rows if row.batch == least and row.score is not None}
