"""An experiment that is kept in memory: no folder, no checkpoints."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

from diffjax.experiment import rows
from diffjax.experiment.joint import members_of
from diffjax.experiment.prepare import Ready
from diffjax.experiment.trainer import Trainer
from diffjax.numerics import matmul_precision, pinned
from diffjax.records.schema import Config, Evaluation, MetricsRecord, RunId
from diffjax.training.loop import Position
from diffjax.training.program import Acting
from diffjax.training.progress import Progress


class Kept(NamedTuple):
    """What an experiment leaves: ``acting`` of each run after its last update, ``failed`` with the reason."""

    config: Config
    evaluations: tuple[Evaluation, ...]
    metrics: tuple[MetricsRecord, ...]
    acting: Mapping[RunId, Acting]
    failed: Mapping[RunId, str]


@pinned()
def train_in_memory(ready: Ready, progress: Progress) -> Kept:
    """Trains and evaluates all runs of an experiment."""
    evaluations: list[Evaluation] = []
    metrics: list[MetricsRecord] = []
    acting: dict[RunId, Acting] = {}
    failed: dict[RunId, str] = {}
    with matmul_precision(ready.plan.experiment.matmul_precision):
        for member in members_of(ready):
            trainer = Trainer([member], progress)
            progress.begin(trainer.name, trainer.count, sum(trainer.lengths), 0)
            trainer.load()
            state = trainer.init()
            failures: rows.Failures = {}
            for step in trainer.steps(state, Position(), {0: {}}):
                outcome = step.outcomes[0]
                evaluations += outcome.evaluations
                metrics.append(outcome.metrics)
                state, failures = step.interval.state, outcome.failed
                trainer.show(step)
            own = trainer.own(state._replace(labels={}), 0)
            for run, one, training in zip(member.runs, member.group.runs, member.group.training, strict=True):
                if training in failures:
                    failed[run] = failures[training]
                acting[run] = jax.tree.map(lambda leaf, place=training: leaf[place], own).acting(one.hyper)
    progress.end()
    return Kept(ready.config, tuple(evaluations), tuple(metrics), acting, failed)
