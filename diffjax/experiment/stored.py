"""The trained runs of a results folder: at which steps their checkpoints stand, and what acting reads of one."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffjax.data.observations import ActionTransform, ObservationTransform
from diffjax.errors import UserError
from diffjax.experiment.plan import Run, group_blocks, separate_runs
from diffjax.methods.base import Method, check_hyper
from diffjax.methods.registry import get_method
from diffjax.numerics import random_key
from diffjax.records.folder import CHECKPOINTS, CONFIG, read_config, read_evaluations
from diffjax.records.schema import BEST, LAST, Config, Evaluation, RunId
from diffjax.tasks.registry import Task, get_task
from diffjax.training.checkpoints import StoredCheckpoints
from diffjax.training.program import Acting
from diffjax.types import Spec


class StoredRuns:
    """The runs of a folder that a launcher wrote, finished or not, of this version or an older one; only read.

    Raises:
      UserError: there is no such folder, or its runs were trained elsewhere.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = config = read_config(folder)
        if config.again is not None:
            raise UserError(f"{folder} holds evaluations, and no checkpoints; its runs are in {config.again.source}")
        self.task = task_of(config)
        self.spec = Spec(self.task.observation_dim, self.task.action_dim)
        self.method, _ = get_method(config.method, config.variant)
        self.hypers = {
            name: hyper_of(self.method, config.hyper[name], str(folder / CONFIG)) for name in config.settings
        }
        runs = [Run(one.seed, one.setting, self.hypers[one.setting]) for one in config.runs]
        self.groups = group_blocks(runs, config.blocks) if config.online is None else separate_runs(runs)
        self._read: tuple[Path, int, Any] | None = None  # the parts read last: runs of a group follow one another
        self._kept: dict[Path, dict[int, int]] = {}

    def subset(self, name: str, wanted: Sequence[Any] | None) -> tuple[Any, ...]:
        """Of the ``seed`` or the ``setting`` of the runs those that are wanted, in their order; None: all.

        Raises:
          UserError: there is no such one.
        """
        known = {"seed": self.config.seeds, "setting": self.config.settings}[name]
        for one in wanted or ():
            if one not in known:
                raise UserError(f"{self.folder} has no {name} {one!r}, only {', '.join(map(repr, known))}")
        return tuple(one for one in known if wanted is None or one in wanted)

    def evaluations(self, run: RunId) -> dict[int, Evaluation]:
        """A run's own evaluations by step."""
        return {row.step: row for row in self._evaluations if row.run == run}

    @functools.cached_property
    def _evaluations(self) -> list[Evaluation]:
        return read_evaluations(self.folder)

    def steps(self, run: RunId) -> list[int]:
        """The updates of the main phase at which checkpoints of a run were kept, upwards; at least one.

        Raises:
          UserError: there are none.
        """
        checkpoints, _ = self._place(run)
        if not checkpoints.is_dir():
            raise UserError(f"{self.folder} has no checkpoints of {run.label}; a policy is read from one")
        if not (kept := self._numbers(checkpoints)):
            raise UserError(f"{self.folder} has no checkpoint of {run.label} with an evaluation yet")
        return sorted(kept)

    def chosen_step(self, run: RunId, step: int | str | None) -> int:
        """The step that is meant: a number, :data:`LAST` (None too) or :data:`BEST`.

        Raises:
          UserError: no checkpoint of it was kept.
        """
        kept = self.steps(run)
        if isinstance(step, str) and step.isdecimal():
            step = int(step)
        if step is None or step == LAST:
            return kept[-1]
        if step == BEST:
            evaluations = self.evaluations(run)
            scored = [one for one in kept if one in evaluations]
            if not scored:
                raise UserError(f"{self.folder} has no evaluation of {run.label} at a checkpoint that was kept")
            return max(scored, key=lambda one: evaluations[one].score)
        if step not in kept:
            known = ", ".join(map(str, kept))
            raise UserError(
                f"{self.folder} keeps no checkpoint of step {step}, only of {known} (train with --keep=all to keep all)"
            )
        return int(step)

    def acting(self, run: RunId, step: int) -> Acting:
        """What acting reads of a run at a step, in host memory.

        Raises:
          UserError: the checkpoint cannot be read.
        """
        checkpoints, place = self._place(run)
        number = self._numbers(checkpoints)[step]
        if self._read is None or self._read[:2] != (checkpoints, number):
            with StoredCheckpoints(checkpoints) as stored:
                self._read = checkpoints, number, stored.parts(number, ("method", "observation", "action"))
        parts = jax.tree.map(lambda leaf: leaf[place], self._read[2])
        dim = self.spec.observation_dim
        raw = {"center": np.zeros(dim, np.float32), "scale": np.ones(dim, np.float32)}
        made_by, hyper = self.config.versions.get("diffjax", "an older one"), self.hypers[run.setting]
        state = state_of(self.method, self.spec, hyper, named_leaves(parts["method"]), True, checkpoints, made_by)
        action = parts.get("action")
        transform = ActionTransform(**action) if action else None
        return Acting(state, hyper, ObservationTransform(**parts.get("observation", raw)), transform)

    def _place(self, run: RunId) -> tuple[Path, int]:
        """The folder of a run's checkpoints, and which training of theirs it is."""
        for index, group in enumerate(self.groups):
            for one, training in zip(group.runs, group.training, strict=True):
                if (one.seed, one.setting) == (run.seed, run.setting):
                    return self.folder / CHECKPOINTS / str(index), training
        raise AssertionError(run)

    def _numbers(self, checkpoints: Path) -> dict[int, int]:
        """The checkpoints of the main phase: step -> number."""
        if checkpoints not in self._kept:
            main = len(self.method.phases) - 1
            with StoredCheckpoints(checkpoints) as stored:
                records = {number: stored.record(number) for number in stored.numbers()}
            self._kept[checkpoints] = {
                record["step"]: number for number, record in records.items() if record["phase"] == main
            }
        return self._kept[checkpoints]


def task_of(config: Config) -> Task:
    """The task of a folder: of the program's table, or as the folder describes it."""
    own, bounds = config.own_task, config.dataset.action_bounds
    if own is None:
        return dataclasses.replace(get_task(config.task), action_bounds=bounds)
    return Task(
        id=config.task,
        suite=config.suite,
        family=config.suite,
        env_id=own.env_id,
        observation_dim=own.observation_dim,
        action_dim=own.action_dim,
        horizon=own.horizon,
        ref_min=config.reference.min,
        ref_max=config.reference.max,
        ref_source=config.reference.source or "",
        env_kwargs=own.env_kwargs,
        action_bounds=bounds,
    )


def hyper_of(method: Method[Any, Any], values: Mapping[str, Any], where: str) -> Any:
    """Hyper-parameters as JSON holds them; those that an older version did not have are at their defaults.

    Raises:
      UserError: the method has no such hyper-parameter, or another range; ``where`` names the file.
    """
    fields = {field.name: field.default for field in dataclasses.fields(method.hyper)}
    if unknown := values.keys() - fields.keys():
        raise UserError(
            f"{where}: {method.hyper.__module__} has no hyper-parameter {min(unknown)}; read it with the version of "
            "diffjax that wrote it"
        )
    kinds: dict[str, Any] = {name: type(default) for name, default in fields.items()}
    # JSON has lists, and texts for floats that are not finite.
    typed = {name: kinds[name](value) if kinds[name] in (tuple, float) else value for name, value in values.items()}
    hyper = method.hyper(**typed)
    check_hyper(hyper)
    return hyper


def named_leaves(state: Any) -> dict[str, Any]:
    """The leaves of a state by their paths, ``state/actor/params/...``."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {"state/" + jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@functools.lru_cache(maxsize=64)
def state_shapes(method: Method[Any, Any], spec: Spec, structure: Any) -> Any:
    """The shapes of a method's state, which runs share whose hyper-parameters have the same tree ``structure``."""
    hyper = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct((), np.float32)] * structure.num_leaves)
    return jax.eval_shape(lambda hyper: method.init(random_key(0), spec, hyper), hyper)


def state_of(
    method: Method[Any, Any], spec: Spec, hyper: Any, arrays: Mapping[str, Any], whole: bool, where: Path, made_by: str
) -> Any:
    """A state of leaves by their paths; but where it is to be ``whole``, those that are not among them are zeros.

    Raises:
      UserError: the method's state has other leaves; ``where`` and ``made_by`` name the file and its version.
    """
    shapes = state_shapes(method, spec, jax.tree.structure(hyper))
    leaves = named_leaves(shapes)
    other = sorted(name for name, array in arrays.items() if name not in leaves or leaves[name].shape != array.shape)
    if other or (whole and (other := sorted(leaves.keys() - arrays.keys()))):
        raise UserError(
            f"{where}: the state of {method.hyper.__module__} is another there (see {other[0]}); read it with the "
            f"version of diffjax that made it, {made_by}"
        )
    nothing = lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)  # noqa: E731
    found = [arrays[name] if name in arrays else nothing(leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(shapes), found)
