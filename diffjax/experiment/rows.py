"""From arrays to records: the rows, metrics and states that a group of runs leaves after an interval."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffjax.clock import utc_now
from diffjax.experiment.plan import Group, Run
from diffjax.methods.base import Method
from diffjax.records.schema import Config, Evaluation, MetricsRecord, RunId
from diffjax.tasks.registry import Task, normalized_score
from diffjax.training.evaluation import Episodes
from diffjax.training.program import NEVER

Failures = Mapping[int, str]
"""Why trainings failed, by their number in the group."""


class BestEvaluation(NamedTuple):
    """The best score of a run so far, the first of equal ones, and the number of the checkpoint beside it."""

    score: float
    checkpoint: int


Best = Mapping[int, BestEvaluation]
"""The best evaluations of runs, by their place in the group."""


def best_evaluations(before: Best, scores: np.ndarray, checkpoint: int) -> Best:
    """The best after another evaluation; a run that failed keeps what it had."""
    better = {
        run: BestEvaluation(float(score), checkpoint)
        for run, score in enumerate(scores)
        if not np.isnan(score) and (run not in before or score > before[run].score)
    }
    return {**before, **better}


def new_failures(phase: str, bad_steps: Sequence[int], failed: Failures) -> dict[int, str]:
    """Trainings that met a non-finite number in an interval, with the reason."""
    return {
        number: f"non-finite loss or parameter at {phase} step {step}"
        for number, step in enumerate(bad_steps)
        if number not in failed and step != NEVER
    }


def metrics_record(
    phase: str, runs: Sequence[RunId], group: Group, step: int, means: Mapping[str, np.ndarray]
) -> MetricsRecord:
    """Means over the updates of an interval, of every training, as one value per run."""
    metrics = {name: values[list(group.training)] for name, values in means.items()}
    return MetricsRecord(phase, step, tuple(runs), metrics, utc_now())


def metrics_line(name: str, record: MetricsRecord, most: int = 6) -> str:
    """Losses and values of a record in words, means over its runs."""
    names = [metric for metric in record.metrics if not metric.endswith("grad_norm")][:most]
    means = {metric: float(np.mean(np.asarray(record.metrics[metric]))) for metric in names}
    shown = ", ".join(f"{metric} {mean:.4g}" for metric, mean in means.items())
    return f"{name}: {record.phase} step {record.step}: {shown}"


def scores_of(task: Task, played: Episodes) -> np.ndarray:
    """The runs' normalised scores ``(runs,)``."""
    return np.array([normalized_score(task, value) for value in played.returns.mean(axis=1)])


def evaluation_rows(
    config: Config,
    method: Method[Any, Any],
    simulator: str,
    runs: Sequence[Run],
    steps: Sequence[int],
    played: Episodes,
    scores: np.ndarray,
) -> list[Evaluation]:
    """One row per run whose score is a number."""
    rows = []
    now = utc_now()
    for index, run in enumerate(runs):
        if np.isnan(scores[index]):
            continue
        cost = method.cost(run.hyper)
        rows.append(
            Evaluation(
                method=config.method,
                variant=config.variant,
                preset=config.preset,
                tuning=config.tuning or "untuned",
                task=config.task,
                dataset=config.dataset.label,
                dataset_fingerprint=config.dataset.fingerprint,
                env=config.env or "",
                simulator=simulator,
                seed=run.seed,
                setting=run.setting,
                step=steps[index],
                episodes=played.returns.shape[1],
                return_mean=float(played.returns[index].mean()),
                return_std=float(played.returns[index].std()),
                length_mean=float(played.lengths[index].mean()),
                score=float(scores[index]),
                candidates=cost.candidates,
                network_evaluations=cost.network_evaluations,
                selection=cost.selection,
                actions=str(config.protocol.get("actions", "")),
                wall_time=now,
            )
        )
    return rows


def statuses(runs: Sequence[RunId], group: Group, failed: Failures, complete: bool) -> dict[RunId, str]:
    """Every run of a group: failed with its reason, complete, or running."""
    state = "complete" if complete else "running"
    reasons = [failed.get(number) for number in group.training]
    return {run: f"failed: {reason}" if reason else state for run, reason in zip(runs, reasons, strict=True)}
