"""Which runs of a folder go on online, by which rule, from which data: looked up and checked, nothing written."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax

from diffjax.data.actions import fit_actions
from diffjax.data.load import load_dataset
from diffjax.data.rewards import reward_affine
from diffjax.data.transitions import Dataset
from diffjax.errors import UserError, unknown_name
from diffjax.experiment.plan import Group, Run, separate_runs
from diffjax.experiment.provenance import versions
from diffjax.experiment.settings import acting_differently, check_overrides, join_setting, parse_setting
from diffjax.experiment.stored import StoredRuns, state_shapes
from diffjax.files import plain
from diffjax.methods.base import RATE_DECAY, check_hyper
from diffjax.numerics import jax_options
from diffjax.records.folder import check_folder, read_status
from diffjax.records.schema import LAST, Config, RunId, WentOnline
from diffjax.tasks.registry import Task, make_simulator
from diffjax.training.batches import Prepared, prepare
from diffjax.training.online import Rule, unfit


@dataclasses.dataclass(frozen=True)
class GoOnline:
    """What the user asked for; None stands for all runs. ``changes`` and ``exploring`` are hyper-parameters as text."""

    source: Path
    out: Path
    rule: Rule
    steps: int  # of the environment, for each run
    eval_interval: int
    capacity: int
    seeds: tuple[int, ...] | None = None
    settings: tuple[str, ...] | None = None
    step: str = LAST  # LAST, BEST or a number of updates
    changes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    exploring: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of acting alone
    dataset: str | None = None  # where the data are now
    resume: bool = False
    flags: tuple[str, ...] = ()


class Plan(NamedTuple):
    """All that goes on, with everything looked up and checked."""

    asked: GoOnline
    stored: StoredRuns
    task: Task
    config: Config
    data: Prepared
    groups: tuple[Group, ...]
    trained: Mapping[RunId, RunId]  # who goes on -> who was trained
    begun: Mapping[RunId, int]  # after how many updates
    failed: Mapping[RunId, str]  # whose training failed


def plan(asked: GoOnline, report: Callable[[str], None]) -> Plan:
    """Looks everything up and reads the data; nothing is written. ``report`` takes what is to be known of the data.

    Raises:
      UserError: for anything unknown, unreadable or contradictory.
    """
    stored = StoredRuns(asked.source)
    source, where = stored.config, asked.source
    if source.online is not None:
        raise UserError(
            f"{where} went on online already, with --resume and more --steps it does further; its runs are "
            f"in {source.online.source}"
        )
    if reason := unfit(stored.method):
        raise UserError(f"{where}: {source.method} {reason}; only what learns from single transitions can go on online")
    if not source.episodes:
        raise UserError(f"{where} was trained without a simulator (episodes=0), so there is none to go on in")
    with closing(make_simulator(stored.task, 1)) as simulator:
        version, horizon = simulator.version, simulator.horizon
    if asked.capacity < (least := horizon * asked.rule.episodes):
        raise UserError(f"--capacity={asked.capacity} does not hold what a run may meet in a turn, {least} steps")
    seeds, settings = stored.subset("seed", asked.seeds), stored.subset("setting", asked.settings)
    hypers: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for setting in settings:
        name = join_setting({**parse_setting(setting), **asked.changes})
        if name in origin:
            raise UserError(
                f"settings {origin[name]!r} and {setting!r} would be alike as {name!r}; choose one with --setting"
            )
        origin[name], hypers[name] = setting, changed(stored, setting, asked.changes)
        acting_differently(source.method, source.variant, hypers[name], dict(asked.exploring))
    dataset = read_data(stored, asked.dataset, report)
    scale, shift = reward_affine(str(source.protocol.get("reward", "raw")), dataset.transitions)
    clip = float(source.protocol.get("action_clip", float("inf")))
    observation = str(source.protocol.get("observation", ""))
    data = prepare(dataset.transitions, stored.method.view, observation, (scale, shift), clip)
    rule = asked.rule
    config = dataclasses.replace(
        source,
        seeds=seeds,
        settings=tuple(hypers),
        hyper={name: plain(dataclasses.asdict(hyper)) for name, hyper in hypers.items()},
        steps=asked.steps,
        eval_interval=asked.eval_interval,
        # The rule of a paper for its offline runs says nothing of these.
        protocol={
            **source.protocol,
            "steps": asked.steps,
            "eval_interval": asked.eval_interval,
            "selection": LAST,
        },
        only=(),
        blocks=(),
        execution=None,
        resumptions=(),
        env=stored.task.env_id,
        versions=versions() | {"simulator": version},
        jax_options=jax_options(),
        flags=asked.flags,
        online=WentOnline(
            str(where.absolute()),
            asked.step,
            asked.capacity,
            rule.offline_fraction,
            rule.updates_per_step,
            rule.episodes,
            rule.noise,
            plain(dict(asked.exploring)),
            scale,
            shift,
        ),
    )
    trained = {one: source.run(one.seed, origin[one.setting]) for one in config.runs}
    begun = {one: stored.chosen_step(run, asked.step) for one, run in trained.items()}
    check_folder(asked.out, config, asked.resume)
    reference = config.reference
    task = dataclasses.replace(stored.task, ref_min=reference.min, ref_max=reference.max)
    groups = separate_runs([Run(one.seed, one.setting, hypers[one.setting]) for one in config.runs])
    status = {one.run: one for one in read_status(where)}
    failed = {one: status[run].reason for one, run in trained.items() if status[run].state == "failed"}
    if len(failed) == len(trained):
        raise UserError(f"{where}: the training of every run failed, so none can go on")
    return Plan(asked, stored, task, config, data, groups, trained, begun, failed)


def changed(stored: StoredRuns, setting: str, changes: Mapping[str, str]) -> Any:
    """The hyper-parameters of a setting as its runs go on: with changes, and by constant learning rates without one.

    Raises:
      UserError: there is no such hyper-parameter, or the networks would be others.
    """
    config, before = stored.config, stored.hypers[setting]
    known = {field.name for field in dataclasses.fields(before)}
    for name in changes:
        if name not in known:
            raise unknown_name(f"hyper-parameter of {config.method}:", name, sorted(known))
    constant = {RATE_DECAY: 0.0} if RATE_DECAY in known else {}
    given = constant | check_overrides(config.method, config.variant, dict(changes))
    after = dataclasses.replace(before, **given)
    check_hyper(after)
    shapes = [state_shapes(stored.method, stored.spec, jax.tree.structure(hyper)) for hyper in (before, after)]
    if shapes[0] != shapes[1]:
        raise UserError(f"--set {join_setting(changes)}: the state would have other arrays; leave it")
    return after


def read_data(stored: StoredRuns, source: str | None, report: Callable[[str], None]) -> Dataset:
    """The data that runs learned from, with actions as they learned them; ``source`` says where they are now.

    Raises:
      UserError: they cannot be read, or are others.
    """
    config, spec = stored.config, stored.spec
    record = config.dataset
    if not (place := source or record.source):
        raise UserError(f"{stored.folder} does not say where its data are; name them with --dataset")
    horizon = stored.task.horizon or None
    dataset = load_dataset(place, spec, record.label, horizon=horizon, any_actions=True, report=report)
    dataset = fit_actions(dataset, str(config.protocol.get("actions", "")), record.action_bounds)
    if dataset.fingerprint != record.fingerprint:
        raise UserError(
            f"{place} holds other data ({dataset.fingerprint}) than {stored.folder} learned from "
            f"({record.fingerprint}, {record.label}); name these with --dataset (a part, as --top_percent takes, is "
            "not found again)"
        )
    return dataset
