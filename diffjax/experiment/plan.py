"""What an experiment will train: everything that the user asked for, looked up, checked and grouped.

The runs of an experiment are its seeds times its settings. Settings that differ in traced hyper-parameters share one
compiled program; settings that differ in a static one fall into groups that are trained one after the other; settings
that differ only in how an action is chosen share the training itself.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from diffjax.errors import UserError
from diffjax.experiment.settings import (
    PROTOCOL_ENTRIES,
    Protocol,
    Settings,
    check_overrides,
    parse_setting,
    phase_entries,
    resolve,
)
from diffjax.methods.base import Method, acting_values, without_acting
from diffjax.methods.registry import get_method
from diffjax.records.loggers import check_loggers
from diffjax.records.schema import LAST, RunBlock
from diffjax.tasks.own import SUITE, find_task
from diffjax.tasks.registry import Task
from diffjax.types import Spec

LARGEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What the user asked for; ``settings`` are texts like ``"eta=0.1;rho=1"`` (``""`` for the table's own values)."""

    method: str
    task: str
    out: Path
    variant: str = ""
    preset: str = "paper"
    seeds: tuple[int, ...] = (0,)
    settings: tuple[str, ...] = ("",)
    only: tuple[int, ...] = ()  # places of the runs to train among all (settings times seeds); empty for all
    overrides: tuple[tuple[str, str], ...] = ()
    dataset: str | None = None
    dataset_source: str | None = None
    mirror: str | None = None
    top_percent: float | None = None
    ref_scores: tuple[float, float] | None = None
    resume: bool = False
    strict: bool = False  # not with other programs than it began with
    max_runs_per_program: int = 0  # on the devices at a time; 0 for as many as fit
    overlap: bool = False  # evaluation with the training of the next interval
    matmul_precision: str = "highest"
    keep: str = LAST  # which checkpoints stay: one of ``KEEP``
    log: tuple[str, ...] = ()  # loggers beside the results folder
    sweep: str = ""  # what it is a part of, for the loggers
    ablation: str = ""  # name of the ablation that ``settings`` are part of, for its table
    plugins: tuple[str, ...] = ()  # files of the user's, by name and fingerprint
    flags: tuple[str, ...] = ()


class Run(NamedTuple):
    """One run: a seed of a setting."""

    seed: int
    setting: str
    hyper: Any


class Round(NamedTuple):
    """Runs of a group that act by the same rule: one per training."""

    hyper: tuple[Any, ...]  # of every training of the group, with this round's way of acting
    runs: tuple[int, ...]  # places in the group of those that were asked for


class Group(NamedTuple):
    """Runs that share one compiled training program.

    Runs of one seed whose settings differ only in how they act are trained once: run ``i`` is training ``training[i]``.
    """

    runs: tuple[Run, ...]
    training: tuple[int, ...]

    @property
    def trained(self) -> tuple[Run, ...]:
        """The first run of each training."""
        return tuple(self.runs[self.training.index(number)] for number in sorted(set(self.training)))

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The ways of acting, in the order of the runs."""
        by_acting: dict[tuple[tuple[str, Any], ...], list[int]] = {}
        for index, run in enumerate(self.runs):
            by_acting.setdefault(tuple(acting_values(run.hyper).items()), []).append(index)
        return tuple(
            Round(tuple(dataclasses.replace(run.hyper, **dict(acting)) for run in self.trained), tuple(runs))
            for acting, runs in by_acting.items()
        )


def group_runs(runs: Iterable[Run]) -> tuple[Group, ...]:
    """Groups in the order of their first runs; within one, trainings likewise."""
    by_program: dict[Any, list[tuple[Run, Any]]] = {}
    for run in runs:
        trained = without_acting(run.hyper)
        by_program.setdefault(jax.tree.structure(trained), []).append((run, (run.seed, trained)))
    groups = []
    for members in by_program.values():
        numbers = {key: number for number, key in enumerate(dict.fromkeys(key for _, key in members))}
        groups.append(Group(tuple(run for run, _ in members), tuple(numbers[key] for _, key in members)))
    return tuple(groups)


def separate_runs(runs: Iterable[Run]) -> tuple[Group, ...]:
    """Groups whose runs share a program also in acting, each of them a training of its own."""
    by_program: dict[Any, list[Run]] = {}
    for run in runs:
        by_program.setdefault(jax.tree.structure(run.hyper), []).append(run)
    return tuple(Group(tuple(members), tuple(range(len(members)))) for members in by_program.values())


def group_blocks(runs: Sequence[Run], blocks: Sequence[RunBlock]) -> tuple[Group, ...]:
    """The groups of each block one after the other, so that runs that come later change no group; no block: of all."""
    left = {(run.seed, run.setting): run for run in runs}
    groups: list[Group] = []
    for block in blocks:
        pairs = [(seed, setting) for setting in block.settings for seed in block.seeds]
        groups += group_runs([left.pop(pair) for pair in pairs if pair in left])
    return (*groups, *group_runs(left.values()))


class Plan(NamedTuple):
    """An experiment with everything looked up and checked, before anything is written."""

    experiment: Experiment
    method: Method[Any, Any]
    variant: str
    task: Task
    spec: Spec
    protocol: Protocol
    tuning: str
    source: str
    groups: tuple[Group, ...]
    hypers: Mapping[str, Any]  # of every setting
    blocks: tuple[RunBlock, ...] = ()  # of runs, where some came later

    @property
    def name(self) -> str:
        """What the progress calls it."""
        method, variant = self.experiment.method, self.experiment.variant
        return f"{self.task.id} {method}" + f" ({self.variant})" * bool(variant)

    def with_blocks(self, blocks: tuple[RunBlock, ...]) -> "Plan":
        """The same runs, in the groups of an experiment that grew by these blocks."""
        order = [run for group in self.groups for run in group.runs]
        return self._replace(groups=group_blocks(order, blocks), blocks=blocks) if blocks else self


def plan(experiment: Experiment) -> Plan:
    """Resolves names, tables and overrides.

    Raises:
      UserError: for anything unknown or contradictory.
    """
    method, variant = get_method(experiment.method, experiment.variant)
    check_loggers(experiment.log)
    for seed in experiment.seeds:
        if not 0 <= seed <= LARGEST_SEED:  # of 32 bits: a larger one would be another seed's twin
            raise UserError(f"seed={seed} is out of range: it must be at least 0 and at most {LARGEST_SEED}")
    common = dict(experiment.overrides)
    resolved: dict[str, Settings] = {}
    for setting in experiment.settings:
        overrides = check_overrides(experiment.method, variant, common | parse_setting(setting))
        resolved[setting] = resolve(experiment.method, experiment.task, experiment.preset, variant, overrides)
    first = next(iter(resolved.values()))
    if any(settings.protocol != first.protocol for settings in resolved.values()):
        names = ", ".join((*PROTOCOL_ENTRIES, *phase_entries(method)))
        raise UserError(f"--grid takes hyper-parameters of {experiment.method}; these belong to --set: {names}")
    task = find_task(experiment.task, needs_simulator=first.protocol.episodes > 0)
    if task.suite == SUITE and experiment.dataset is None:
        raise UserError(f"task {task.id} is your own, and has no data of its own; name some with --dataset")
    runs = [Run(seed, setting, settings.hyper) for setting, settings in resolved.items() for seed in experiment.seeds]
    if experiment.only:
        runs = [runs[place] for place in experiment.only]
    return Plan(
        experiment,
        method,
        variant,
        task,
        Spec(task.observation_dim, task.action_dim),
        first.protocol,
        first.tuning,
        first.source,
        group_runs(runs),
        {setting: settings.hyper for setting, settings in resolved.items()},
    )


def phase_lengths(method: Method[Any, Any], protocol: Protocol) -> tuple[int, ...]:
    """Updates of each phase; the last one is the main phase."""
    given = (protocol.phase_steps[phase.name] for phase in method.phases[:-1])
    return (*(round(steps * protocol.steps) if steps < 1 else int(steps) for steps in given), protocol.steps)
