"""Runs that were trained elsewhere, evaluated again: on other episodes, at other steps, by another way of acting.

The evaluations become a results folder of their own, which tables read beside the one of the training.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.envs.base import VectorSimulator
from diffjax.errors import UserError
from diffjax.experiment import rows
from diffjax.experiment.plan import Run
from diffjax.experiment.provenance import versions
from diffjax.experiment.settings import acting_differently, join_setting, parse_setting
from diffjax.experiment.stored import StoredRuns
from diffjax.files import plain
from diffjax.numerics import check_platform, jax_options, matmul_precision, pinned, random_key
from diffjax.records.folder import ResultsFolder, check_folder, open_folder, read_status
from diffjax.records.schema import ALL, LAST, Config, EvaluatedAgain, Evaluation, RunId, RunStatus
from diffjax.records.writer import only_writer
from diffjax.tasks.registry import Task, make_simulator
from diffjax.training.evaluation import Episodes, episode_keys, evaluate
from diffjax.training.program import Acting, Program, run_sharding, stack_runs
from diffjax.training.progress import Progress, Score

AT_ONCE = 1024
"""Episodes that are played side by side; more are played in turns."""


@dataclasses.dataclass(frozen=True)
class Again:
    """What the user asked for; None stands for all runs, and for the episodes of the training's own evaluations.

    ``acting`` are texts like ``"candidates=1"``, each of which changes how every run acts; ``""`` changes nothing.
    """

    source: Path
    out: Path | None = None  # None: nothing will be recorded
    seeds: tuple[int, ...] | None = None
    settings: tuple[str, ...] | None = None
    step: str = LAST  # LAST, BEST, ALL or a number
    episodes: int | None = None
    first_episode: int = 0
    acting: tuple[str, ...] = ("",)
    flags: tuple[str, ...] = ()


class Played(NamedTuple):
    """A run as it is evaluated, and the run of the training that it is of."""

    run: Run
    trained: RunId


class Plan(NamedTuple):
    """What will be played, with everything looked up and checked."""

    again: Again
    stored: StoredRuns
    task: Task
    config: Config
    played: tuple[Played, ...]
    steps: tuple[tuple[int, ...], ...]  # of each turn, one step for each run
    failures: dict[RunId, str]  # runs, as evaluated, whose training failed


def plan(again: Again) -> Plan:
    """Looks everything up; nothing is written.

    Raises:
      UserError: for anything unknown, unreadable or contradictory.
    """
    stored = StoredRuns(again.source)
    source = stored.config
    seeds, settings = stored.subset("seed", again.seeds), stored.subset("setting", again.settings)
    hypers: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for acting, setting in itertools.product(again.acting, settings):
        name, hyper = _acting_setting(stored, setting, acting)
        if name in origin:
            raise UserError(
                f"settings {origin[name]!r} and {setting!r} would act alike as {name!r}; choose one with --setting"
            )
        origin[name], hypers[name] = setting, hyper
    config = dataclasses.replace(
        source,
        seeds=seeds,
        settings=tuple(hypers),
        hyper={name: plain(dataclasses.asdict(hyper)) for name, hyper in hypers.items()},
        only=(),
        blocks=(),
        execution=None,
        resumptions=(),
        episodes=again.episodes or source.episodes,
        # What --step chose is what counts, by whichever rule the paper would have chosen.
        protocol={**source.protocol} | ({} if again.step == ALL else {"selection": LAST}),
        env=stored.task.env_id,
        versions=versions(),
        jax_options=jax_options(),
        flags=again.flags,
        again=EvaluatedAgain(str(again.source.absolute()), again.step, again.first_episode),
    )
    if again.out is not None:
        check_folder(again.out, config, resume=False)
    reference = config.reference
    task = dataclasses.replace(stored.task, ref_min=reference.min, ref_max=reference.max)
    status = {one.run: one for one in read_status(again.source)}
    runs = [
        Played(Run(seed, name, hyper), source.run(seed, origin[name]))
        for name, hyper in hypers.items()
        for seed in seeds
    ]
    played = tuple(one for one in runs if status[one.trained].state != "failed")
    failures = {
        config.run(one.run.seed, one.run.setting): status[one.trained].status for one in runs if one not in played
    }
    return Plan(again, stored, task, config, played, _turns(stored, played, again.step), failures)


def _acting_setting(stored: StoredRuns, setting: str, acting: str) -> tuple[str, Any]:
    """The name and the hyper-parameters of a setting that acts in another way."""
    config, given = stored.config, parse_setting(acting)
    hyper = acting_differently(config.method, config.variant, stored.hypers[setting], given)
    return join_setting(parse_setting(setting) | given), hyper


def _turns(stored: StoredRuns, played: Sequence[Played], step: str) -> tuple[tuple[int, ...], ...]:
    """Of each turn the step of every run."""
    if step != ALL:
        chosen = tuple(stored.chosen_step(one.trained, step) for one in played)
        return (chosen,) if chosen else ()
    kept = [set(stored.steps(one.trained)) for one in played]
    return tuple((step,) * len(played) for step in sorted(set.intersection(*kept))) if kept else ()


@pinned()
def evaluate_again(planned: Plan, progress: Progress) -> ResultsFolder:
    """Plays the episodes and records them in the folder ``out``, which appears once all were played.

    Raises:
      UserError: the folder cannot be written, or a checkpoint cannot be read.
    """
    check_platform()
    config, out = planned.config, planned.again.out
    assert out is not None
    with matmul_precision(config.matmul_precision or "highest"):
        found, simulator = _play(planned, progress)
    config = dataclasses.replace(config, versions={**config.versions, "simulator": simulator})
    with only_writer(out, progress.note):
        folder = open_folder(out, config)
        folder.append_evaluations(found)
        folder.write_status(RunStatus(run, planned.failures.get(run, "complete")) for run in config.runs)
    return folder


def _play(planned: Plan, progress: Progress) -> tuple[list[Evaluation], str]:
    """The rows of all evaluations, and the simulator's version."""
    config, task, found = planned.config, planned.task, []
    with closing(make_simulator(task, 1)) as simulator:
        version = simulator.version
    groups = _groups(planned.played)
    turns = sum(len(_parts(planned, len(group))) for group in groups) * len(planned.steps)
    progress.begin(f"{task.id} {config.method}", len(planned.played), turns * task.horizon, 0)
    for steps in planned.steps:
        for group in groups:
            runs, chosen = [planned.played[place].run for place in group], [steps[place] for place in group]
            played = _episodes(planned, group, chosen, progress)
            scores = rows.scores_of(task, played)
            found += rows.evaluation_rows(config, planned.stored.method, version, runs, chosen, played, scores)
            progress.evaluated(
                max(chosen),
                [Score(run.seed, run.setting, score) for run, score in zip(runs, scores.tolist(), strict=True)],
            )
    progress.end()
    return found, version


def _groups(played: Sequence[Played]) -> list[list[int]]:
    """The places of runs that one program plays: those that agree in all static hyper-parameters."""
    found: dict[Any, list[int]] = {}
    for place, one in enumerate(played):
        found.setdefault(jax.tree.structure(one.run.hyper), []).append(place)
    return list(found.values())


def _parts(planned: Plan, runs: int) -> list[tuple[int, int]]:
    """First number and count of the episodes that are played side by side, of every part."""
    first, episodes = planned.again.first_episode, planned.config.episodes
    size = max(1, AT_ONCE // runs)
    return [(first + start, min(size, episodes - start)) for start in range(0, episodes, size)]


def _episodes(planned: Plan, group: Sequence[int], steps: Sequence[int], progress: Progress) -> Episodes:
    """The episodes ``(runs, episodes)`` of the runs at some places, each at its own step."""
    stored, played = planned.stored, [planned.played[place] for place in group]
    program = Program(stored.method, stored.spec, "uniform", run_sharding(len(group)))
    each = [
        stored.acting(one.trained, step)._replace(hyper=one.run.hyper) for one, step in zip(played, steps, strict=True)
    ]
    acting: Acting = program.place(stack_runs(each))
    run_keys = jnp.stack([random_key(one.run.seed) for one in played])
    parts = []
    for first, count in _parts(planned, len(group)):
        keys = episode_keys(run_keys, jnp.asarray(steps), count, first)
        with closing(make_simulator(planned.task, len(group) * count)) as simulator:
            parts.append(_with_progress(keys, program, acting, simulator, progress))
    return Episodes(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))


def _with_progress(
    keys: jax.Array, program: Program, acting: Acting, simulator: VectorSimulator, progress: Progress
) -> Episodes:
    """Episodes, a step of the horizon after the other; what an early end leaves over counts as done."""
    taken = 0

    def stepped(time: int) -> None:
        nonlocal taken
        progress.advance(time - taken)
        taken = time

    found = evaluate(keys, program, acting, simulator, stepped)
    stepped(simulator.horizon)
    return found
