"""An experiment that is kept in memory: no folder, no checkpoints."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from diffjax.experiment import rows
from diffjax.experiment.prepare import Ready
from diffjax.experiment.trainer import Trainer
from diffjax.numerics import pinned
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
    trainer = Trainer(ready, progress)
    evaluations: list[Evaluation] = []
    metrics: list[MetricsRecord] = []
    acting: dict[RunId, Acting] = {}
    failed: dict[RunId, str] = {}
    with jax.default_matmul_precision(ready.plan.experiment.matmul_precision):
        for group in ready.plan.groups:
            assembled = trainer.assemble(group)
            state = assembled.program.init(assembled.setup, assembled.data)
            progress.begin(trainer.name, len(group.trained), sum(trainer.lengths), 0)
            failures: rows.Failures = {}
            for outcome in trainer.outcomes(assembled, state, Position(), {}):
                evaluations += outcome.evaluations
                metrics.append(outcome.metrics)
                state, failures = outcome.interval.state, outcome.failed
                trainer.show(outcome)
            for run, one, training in zip(assembled.runs, group.runs, group.training, strict=True):
                if training in failures:
                    failed[run] = failures[training]
                parts = jax.tree.map(lambda leaf, place=training: np.asarray(leaf[place]), state._replace(labels={}))
                acting[run] = parts.acting(one.hyper)
    progress.end()
    return Kept(ready.config, tuple(evaluations), tuple(metrics), acting, failed)
