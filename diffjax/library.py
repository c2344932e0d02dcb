"""What ``import diffjax as dj`` offers: data, training, evaluation and policies, for notebooks and programs."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from diffjax import policy as policies
from diffjax.data import load
from diffjax.data.arrays import load_arrays
from diffjax.data.transitions import Dataset
from diffjax.errors import UserError
from diffjax.experiment.memory import train_in_memory
from diffjax.experiment.plan import Experiment, plan
from diffjax.experiment.prepare import make_ready, obtain_dataset
from diffjax.experiment.run import run_experiment
from diffjax.experiment.stored import StoredRuns
from diffjax.launch import cli
from diffjax.launch.plugins import load_plugin
from diffjax.launch.progress import TrainingProgress
from diffjax.methods.registry import register_method
from diffjax.numerics import check_platform, matmul_precision, pinned, random_key
from diffjax.policy import Policy
from diffjax.records.folder import read_evaluations, read_metrics, read_status
from diffjax.records.schema import Config, Evaluation, MetricsRecord, RunId
from diffjax.studies.collect.store import store_dataset
from diffjax.tasks.own import find_task, register_task
from diffjax.tasks.registry import make_simulator, normalized_score
from diffjax.training.evaluation import episode_keys
from diffjax.training.evaluation import evaluate as play
from diffjax.training.program import Program, stack_runs
from diffjax.words import count

OWN_TASK = "own-data"
"""What a task is called of which only data are known."""

__all__ = [
    "Score",
    "Trained",
    "evaluate",
    "load_dataset",
    "load_plugin",
    "load_policy",
    "register_method",
    "register_task",
    "train",
]


def load_dataset(source: str | Path | Mapping[str, Any], *, horizon: int | None = None, **options: Any) -> Dataset:
    """A data set from arrays, a file, a folder or a Minari id.

    Args:
      source: ``{"observations": ..., "actions": ..., "rewards": ..., "terminals": ..., "timeouts": ...}``, rows in
        time order (see ``docs/data.md``), or what ``--dataset`` takes.
      horizon: steps per episode, where no time limits are recorded.
      options: of :func:`diffjax.data.load.load_dataset`.

    Raises:
      UserError: names the array or file and its defect.
    """
    if isinstance(source, Mapping):
        return load_arrays(source, horizon=horizon, **options)
    return load.load_dataset(str(source), horizon=horizon, any_actions=True, **options)


@dataclasses.dataclass(frozen=True)
class Trained:
    """Trained runs: their evaluations and metrics as results folders have them, and a policy of each."""

    config: Config
    evaluations: tuple[Evaluation, ...]  # one per run and evaluation, in the order in which they were made
    metrics: tuple[MetricsRecord, ...]  # one per interval, with one number per run
    policies: Mapping[RunId, Policy]  # of the runs that did not fail, after their last update
    failed: Mapping[RunId, str]  # why

    def policy(self, seed: int | None = None, setting: str | None = None) -> Policy:
        """The policy of a run after its last update; the only one, or that of a seed and a setting.

        Raises:
          UserError: there are several, or none like that; or the run failed.
        """
        found = [run for run in self.config.runs if seed in (None, run.seed) and setting in (None, run.setting)]
        if len(found) != 1:
            known = ", ".join(run.label for run in self.config.runs)
            raise UserError(f"name one of the runs by its seed and setting: {known}")
        if found[0] in self.failed:
            raise UserError(f"{found[0].label} failed: {self.failed[found[0]]}")
        return self.policies[found[0]]

    @property
    def scores(self) -> dict[RunId, float]:
        """The normalised score of each run at its last evaluation."""
        return {row.run: row.score for row in self.evaluations}


def train(
    method: str,
    task: str | None = None,
    *,
    dataset: Dataset | Mapping[str, Any] | str | Path | None = None,
    variant: str = "",
    preset: str = "paper",
    seeds: int | Sequence[int] = 1,
    grid: Mapping[str, Sequence[Any]] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    keep: str = "last",
    ref_scores: tuple[float, float] | None = None,
    matmul_precision: str = "highest",
    progress: bool = True,
    **settings: Any,
) -> Trained:
    """Trains a method on a task or on data alone, all seeds and settings at once.

    Args:
      method: a name of ``diffjax.METHODS``.
      task: a name of ``diffjax.TASKS``, a registered one or a Gymnasium id; None: no simulator, only ``dataset``.
      dataset: arrays, a path or an id, or what :func:`load_dataset` gave; None: the task's own.
      variant: of the method; empty: its first.
      preset: ``"paper"`` for the published hyper-parameters, ``"quick"`` for small networks.
      seeds: how many runs (seeds 0, 1, ...), or which seeds.
      grid: values of hyper-parameters, all combinations of which are trained.
      out: a results folder, as ``diffjax train`` writes; None: everything stays in memory.
      resume: go on where training into ``out`` stopped, or add runs and updates to it.
      keep: which checkpoints stay in ``out``: ``"last"``, ``"best"`` or ``"all"``.
      ref_scores: returns that score 0 and 100, for a task that has none of its own.
      matmul_precision: of matrix products on accelerators: ``"highest"``, ``"high"`` or ``"default"``.
      progress: whether training is shown on standard error.
      settings: hyper-parameters and entries of the protocol: ``steps=1000, batch_size=64, episodes=5``.

    Raises:
      UserError: for any mistake in the request or the data; nothing is written then.
    """
    check_platform()
    if isinstance(dataset, Mapping):
        dataset = load_dataset(dataset)
    if task is None:
        if dataset is None:
            raise UserError("name a task, or give data to learn from: train(method, dataset=...)")
        task, settings = OWN_TASK, {"episodes": 0} | settings
    experiment = Experiment(
        method=method,
        task=task,
        out=Path(out) if out is not None else Path(),
        variant=variant,
        preset=preset,
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        settings=cli.grid_settings(grid or {}),
        overrides=tuple((name, str(value)) for name, value in settings.items()),
        dataset=None if dataset is None else dataset.source if isinstance(dataset, Dataset) else str(dataset),
        ref_scores=ref_scores,
        resume=resume,
        matmul_precision=matmul_precision,
        keep=keep,
    )
    given = dataset if isinstance(dataset, Dataset) else None
    with TrainingProgress(Console(stderr=True, quiet=not progress)) as shown:
        if out is not None:
            run_experiment(experiment, shown, store_dataset, given)
            return read(out)
        with pinned():
            planned = plan(experiment)
            ready = make_ready(planned, given or obtain_dataset(planned, store_dataset, shown.note), shown.note)
        kept = train_in_memory(ready, shown)
    evaluations = {(row.run, row.step): row for row in kept.evaluations}
    made = {}
    for run, acting in kept.acting.items():
        step = kept.config.steps
        about = policies.about_run(kept.config, run, step, acting.hyper, ready.plan.spec, evaluations.get((run, step)))
        made[run] = Policy(ready.plan.method, acting, about)
    return Trained(kept.config, kept.evaluations, kept.metrics, made, kept.failed)


def read(folder: str | Path) -> Trained:
    """The runs of a results folder after their last update.

    Raises:
      UserError: there is no results folder, or it is damaged.
    """
    statuses = read_status(folder)
    failed = {status.run: status.reason for status in statuses if status.state == "failed"}
    stored = StoredRuns(Path(folder))
    made = {status.run: policies.policy_of(stored, status.run) for status in statuses if status.run not in failed}
    return Trained(stored.config, tuple(read_evaluations(folder)), tuple(read_metrics(folder)), made, failed)


load_policy = policies.load


class Score(NamedTuple):
    """Episodes of a policy: ``returns`` and ``lengths (episodes,)``, and the mean return's normalised score, if any."""

    returns: np.ndarray
    lengths: np.ndarray
    score: float | None


@pinned()
def evaluate(policy: Policy, task: str | None = None, *, episodes: int = 10, seed: int = 0) -> Score:
    """Plays episodes with a policy, all at once.

    Args:
      task: another than the one it was trained on.
      episodes: how many.
      seed: of the environments' starts and of the policy's draws.

    Raises:
      UserError: the task is unknown, has no simulator, or other sizes.
    """
    check_platform()
    name = task or policy.about.task
    found = find_task(name, needs_simulator=False)
    if not found.env_id:
        raise UserError(f"there is no simulator of {name}; name a task that has one")
    if (found.observation_dim, found.action_dim) != policy.spec:
        raise UserError(
            f"task {found.id} has observations of {found.observation_dim} and actions of "
            f"{count(found.action_dim, 'number')}, "
            f"this policy {policy.spec.observation_dim} and {policy.spec.action_dim}"
        )
    found = dataclasses.replace(found, action_bounds=policy.action_bounds)
    acting = stack_runs([policy.acting])
    keys = episode_keys(random_key(seed)[None], 0, episodes)
    program = Program(policy.method, policy.spec, "uniform")
    precision = matmul_precision(policy.about.matmul_precision)
    with closing(make_simulator(found, episodes)) as simulator, precision:
        played = play(keys, program, acting, simulator)
    score = None if found.ref_min is None else float(normalized_score(found, played.returns.mean()))
    return Score(played.returns[0], played.lengths[0], score)
