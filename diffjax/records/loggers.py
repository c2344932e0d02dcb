"""TensorBoard and Weights & Biases beside a results folder: one series of numbers per run, off unless asked for.

What is logged are the rows of the folder itself, as they are appended; a resumed experiment first hands over the rows
that stand. So the event files of TensorBoard are made anew and say what the folder says, and Weights & Biases, which
forgets nothing, is spared the steps that it has. The two packages are imported only when asked for.
"""

import importlib
import itertools
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from diffjax.errors import UserError, unknown_name
from diffjax.files import write_text
from diffjax.records.folder import ResultsFolder, read_evaluations, read_metrics
from diffjax.records.schema import Config, Evaluation, MetricsRecord, RunId

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""Logger (and extra of this package) -> the package it needs."""

PROJECT = "diffjax"  # of Weights & Biases, unless WANDB_PROJECT names another
EVALUATED = ("score", "return_mean", "return_std", "length_mean")
MAIN_NUMBERS = ("evaluation/score", "evaluation/return_mean")
"""What TensorBoard shows over hyper-parameters."""
WANDB_ID = "wandb_id.txt"
LONGEST = 64  # name of a tag or a kind of job, of Weights & Biases


Phases = Sequence[tuple[str, int]]
"""The phases of training with their updates, in order; the last is the main phase."""


class Series(Protocol):
    """The numbers of one run in one place."""

    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers after ``step`` updates of a phase; steps of a phase never go back."""

    def close(self) -> None:
        """Nothing more will come."""


def check_loggers(names: Iterable[str]) -> None:
    """Imports what the loggers need.

    Raises:
      UserError: for an unknown logger, or one whose package is not installed; it names the extra.
    """
    for name in names:
        if name not in PACKAGES:
            raise unknown_name("logger", name, PACKAGES)
        _package(name)


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(PACKAGES[name])
    except ImportError:
        raise UserError(
            f"--log={name} needs the package {PACKAGES[name]}; install the extra: pip install 'diffjax[{name}]'"
        ) from None


class Loggers:
    """All series of some runs of a folder; does nothing without names. A number that is not finite is left out.

    Args:
      names: of :data:`PACKAGES`.
      config: the folder's.
      phases: phase -> its updates, in order; the last is the main phase.
      sweep: what the folder is a part of, by name; empty for nothing.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: ResultsFolder,
        config: Config,
        runs: Sequence[RunId],
        phases: Mapping[str, int],
        sweep: str = "",
    ) -> None:
        self._main = list(phases)[-1]  # evaluations belong to it
        self._series: dict[RunId, list[Series]] = {run: [] for run in runs}
        try:
            for name, run in itertools.product(names, runs):
                self._series[run].append(SERIES[name](folder.path, config, run, list(phases.items()), sweep))
            if names:
                self._replay(folder.path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, record: MetricsRecord, rows: Iterable[Evaluation]) -> None:
        """A record of ``metrics.jsonl`` and the rows of ``evaluations.csv`` that end its interval.

        Both at once: a step that was logged by half before an interruption could not be completed later.
        """
        evaluated = {row.run: row for row in rows}
        for index, run in enumerate(record.runs):
            values = {name: float(each[index]) for name, each in record.metrics.items()}
            if run in evaluated:
                values |= {f"evaluation/{name}": float(getattr(evaluated[run], name)) for name in EVALUATED}
            values = {name: value for name, value in values.items() if math.isfinite(value)}
            for series in self._series.get(run, ()):
                series.add(record.phase, record.step, values)

    def close(self) -> None:
        """Closes every series."""
        for series in self._series.values():
            while series:
                series.pop().close()

    def _replay(self, path: Path) -> None:
        """The rows that stand, interval by interval."""
        by_step: dict[int, list[Evaluation]] = {}
        for row in read_evaluations(path):
            by_step.setdefault(row.step, []).append(row)
        for record in read_metrics(path):
            self.add(record, by_step.get(record.step, []) if record.phase == self._main else [])


def _name(run: RunId) -> str:
    """``guidance=soft;seed=0``."""
    return ";".join([*([run.setting] if run.setting else []), f"seed={run.seed}"])


class TensorBoardSeries:
    """Event files of one run, in a folder of its own below ``folder``, which is emptied first.

    They begin with the run's hyper-parameters, for TensorBoard's table and plots of scores over them.
    """

    def __init__(self, folder: Path, config: Config, run: RunId, phases: Phases, sweep: str) -> None:
        place = folder / "tensorboard" / _name(run)
        shutil.rmtree(place, ignore_errors=True)
        package = _package("tensorboard")
        self._writer = package.SummaryWriter(str(place))
        shared = {"method": run.method, "variant": run.variant, "task": run.task, "seed": run.seed, "sweep": sweep}
        hyper = {name: _plain(value) for name, value in config.hyper[run.setting].items()}
        experiment, begin, _ = package.summary.hparams(shared | hyper, dict.fromkeys(MAIN_NUMBERS, 0.0))
        for part in (experiment, begin):  # no end: a run may go on
            self._writer.file_writer.add_summary(part)
        self._main = phases[-1][0]

    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Tags are the metrics' names, those of a phase before the main one below the phase's name."""
        for name, value in values.items():
            self._writer.add_scalar(name if phase == self._main else f"{phase}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


def _plain(value: object) -> object:
    """A hyper-parameter as TensorBoard takes it: sizes as text."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def _wandb_identity(folder: Path) -> str:
    """What distinguishes the folder's runs from all others of a project; drawn once and kept in the folder."""
    file = folder / WANDB_ID
    if not file.is_file():
        write_text(file, secrets.token_hex(6) + "\n")
    return file.read_text(encoding="utf-8").strip()


class WandbSeries:
    """One run of Weights & Biases, in the group of its folder, tagged with its sweep's name.

    Mode, project and group obey ``WANDB_MODE``, ``WANDB_PROJECT`` and ``WANDB_RUN_GROUP``; tags are added to
    ``WANDB_TAGS``.

    A step counts the updates of all phases; it only moves forward, and what a resumed run already has is left out.
    Offline nobody knows what it has: the run is written again as a whole, and only the newest is worth syncing.
    """

    def __init__(self, folder: Path, config: Config, run: RunId, phases: Phases, sweep: str) -> None:
        identity = _wandb_identity(folder)
        shared = {name: entry for name, entry in config.to_json().items() if name not in ("hyper", "seeds", "settings")}
        names = [name for name, _ in phases]
        self._offsets = {name: sum(updates for _, updates in phases[:index]) for index, name in enumerate(names)}
        self._main = names[-1]
        wandb, hyper = _package("wandb"), dict(config.hyper[run.setting])
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=f"{identity}-{config.runs.index(run)}",
                name=f"{run.method} {run.task} {_name(run)}",
                group=os.environ.get("WANDB_RUN_GROUP") or f"{run.task} {run.method} {identity}",
                job_type=sweep[:LONGEST] or None,
                tags=_tags(sweep),
                config=shared | {"sweep": sweep, "seed": run.seed, "setting": run.setting, "hyper": hyper},
                dir=str(folder),
                resume="allow",
                reinit="create_new",
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"--log=wandb: {reason}; WANDB_MODE=offline logs without the service") from None
        self._first = self._run.step if self._run.resumed else 0
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        for name in names[:-1]:
            self._run.define_metric(f"{name}/step")
            self._run.define_metric(f"{name}/*", step_metric=f"{name}/step")

    def add(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers over ``step``, those of a phase before the main one over a step of its own."""
        total = self._offsets[phase] + step
        if total >= self._first:
            prefix = "" if phase == self._main else f"{phase}/"
            numbers = {f"{prefix}{name}": value for name, value in values.items()}
            self._run.log(numbers | {f"{prefix}step": step}, step=total)

    def close(self) -> None:
        """Ends the run at its own place; what it logged stays."""
        self._run.finish()


def _tags(sweep: str) -> list[str] | None:
    """The user's own and the sweep's name, as much of it as a tag may hold."""
    own = [one for one in os.environ.get("WANDB_TAGS", "").split(",") if one]
    return [*own, sweep[:LONGEST]] if sweep else None


SERIES: dict[str, Callable[[Path, Config, RunId, Phases, str], Series]] = {
    "tensorboard": TensorBoardSeries,
    "wandb": WandbSeries,
}
"""Logger -> what opens the series of a run: results folder, its configuration, the run, the phases, the sweep."""
