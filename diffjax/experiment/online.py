"""Runs of a folder that go on online: planned, played and trained turn by turn, recorded in a folder of their own.

The folder's steps are those of the environment, evaluations by the protocol of the training stand in it as in any
other. A checkpoint is the commit point, as in training: it holds the state of a group, the transitions that its runs
keep, and says how many rows stand.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.actions import fit_actions
from diffjax.data.load import load_dataset
from diffjax.data.rewards import reward_affine
from diffjax.data.transitions import Dataset
from diffjax.envs.base import VectorSimulator
from diffjax.errors import Stopped, UserError, first_line, unknown_name
from diffjax.experiment import rows
from diffjax.experiment.plan import Group, Run, separate_runs
from diffjax.experiment.provenance import versions
from diffjax.experiment.run import is_out_of_memory
from diffjax.experiment.settings import acting_differently, check_overrides, join_setting, parse_setting
from diffjax.experiment.stored import LAST, StoredRuns, state_shapes
from diffjax.files import plain
from diffjax.methods.base import RATE_DECAY, Metrics, Weighted, check_hyper
from diffjax.numerics import check_platform, jax_options, pinned, random_key
from diffjax.records.commits import Ledger, Standing, read_ledgers
from diffjax.records.folder import ResultsFolder, check_folder, open_folder, read_status
from diffjax.records.schema import Config, RunId, RunStatus, WentOnline
from diffjax.records.writer import only_writer
from diffjax.tasks.registry import Task, make_simulator
from diffjax.training.batches import Prepared, prepare
from diffjax.training.checkpoints import Checkpoints
from diffjax.training.evaluation import episode_keys, evaluate
from diffjax.training.loop import bounds
from diffjax.training.online import (
    OnlineSetup,
    OnlineState,
    Rule,
    empty_replay,
    keep_episodes,
    learn_online,
    owed,
    play_episodes,
    unfit,
)
from diffjax.training.program import (
    NEVER,
    Program,
    RunSetup,
    add_metrics,
    mean_metrics,
    run_sharding,
    stack_runs,
)
from diffjax.training.progress import Progress, Score

PIECE = 200  # updates between two looks at whether to stop
UNFINISHED = -1
"""What stands for the phase in the record of a checkpoint between two evaluations, which is no policy to read."""


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
    trained: Mapping[RunId, RunId]  # who went on -> who was trained
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
        name = join_setting(parse_setting(setting) | asked.changes)
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
    lengths = {"steps": asked.steps, "eval_interval": asked.eval_interval}
    rule = asked.rule
    config = dataclasses.replace(
        source,
        seeds=seeds,
        settings=tuple(hypers),
        hyper={name: plain(dataclasses.asdict(hyper)) for name, hyper in hypers.items()},
        **lengths,
        # The rule of a paper for its offline runs says nothing of these.
        protocol={**source.protocol, **lengths, "selection": LAST},
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
    check_folder(asked.out, config, asked.resume)
    reference = config.reference
    task = dataclasses.replace(stored.task, ref_min=reference.min, ref_max=reference.max)
    groups = separate_runs([Run(one.seed, one.setting, hypers[one.setting]) for one in config.runs])
    trained = {one: source.run(one.seed, origin[one.setting]) for one in config.runs}
    status = {one.run: one for one in read_status(where)}
    failed = {one: status[run].reason for one, run in trained.items() if status[run].state == "failed"}
    if len(failed) == len(trained):
        raise UserError(f"{where}: the training of every run failed, so none can go on")
    return Plan(asked, stored, task, config, data, groups, trained, failed)


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


@pinned()
def go_online(planned: Plan, progress: Progress) -> ResultsFolder:
    """Plays, trains and evaluates all runs and records them in the folder ``out``.

    Raises:
      UserError: the folder or a checkpoint cannot be read or written, or there is not enough memory.
    """
    check_platform()
    out, config = planned.asked.out, planned.config
    with only_writer(out, progress.note) as say, ExitStack() as stack:
        stack.callback(progress.end)
        folder = open_folder(out, config, planned.asked.resume)
        records = [
            stack.enter_context(GroupRecord(planned, folder, number, say)) for number in range(len(planned.groups))
        ]
        ledgers = read_ledgers(folder, [one.runs for one in records], [one.saved.standing for one in records])
        for record, ledger in zip(records, ledgers, strict=True):
            record.ledger = ledger
        stack.enter_context(jax.default_matmul_precision(config.matmul_precision or "highest"))
        for record in records:
            if not record.is_finished:
                with _enough_memory(record):
                    _go_on(planned, record, progress)
    return folder


@contextmanager
def _enough_memory(record: "GroupRecord") -> Iterator[None]:
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"{len(record.runs)} runs with {record.planned.asked.capacity} transitions each do not fit into memory "
            f"({first_line(error)}); take fewer --seed at a time, or less --capacity"
        ) from None


class Saved(NamedTuple):
    """What a checkpoint says: its number, the evaluation it follows, whether more is begun, failures, rows."""

    number: int = 0
    step: int = -1  # of the environment; -1 before the first evaluation
    is_whole: bool = True
    failed: rows.Failures = MappingProxyType({})
    standing: Standing | None = None
    metrics: tuple[str, ...] = ()


class GroupRecord:
    """Keeps what a group of runs leaves in the folder."""

    ledger: Ledger

    def __init__(self, planned: Plan, folder: ResultsFolder, number: int, say: Callable[[str], None]) -> None:
        self.planned, self.group, self._folder, self._say = planned, planned.groups[number], folder, say
        self.runs = tuple(planned.config.run(run.seed, run.setting) for run in self.group.runs)
        self._checkpoints = Checkpoints(folder.checkpoints / str(number))
        self.saved = self._read()

    def __enter__(self) -> "GroupRecord":
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpoints.close()

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        saved = self.saved
        return saved.is_whole and (saved.step == self.planned.config.steps or len(saved.failed) == len(self.runs))

    def _read(self) -> Saved:
        numbers = self._checkpoints.numbers()
        if not numbers:
            failed = {
                place: self.planned.failed[run] for place, run in enumerate(self.runs) if run in self.planned.failed
            }
            return Saved(failed=failed)
        record = self._checkpoints.record(numbers[-1])
        try:
            return Saved(
                numbers[-1],
                int(record["step"]),
                record["phase"] != UNFINISHED,
                {int(place): str(reason) for place, reason in record["failures"].items()},
                Standing.of(record["rows"]),
                tuple(map(str, record["metrics"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(
                f"{self._folder.checkpoints}: the record of checkpoint {numbers[-1]} is damaged; delete its folder to "
                "go on from the one before"
            ) from None

    def restore(self, like: OnlineState) -> tuple[OnlineState, Metrics | None]:
        """State and sums of metrics as the checkpoint holds them; ``like`` gives structure and shapes."""
        names, runs = self.saved.metrics, len(self.runs)
        sums = {"sums": np.zeros((len(names), 2, runs), np.float32)} if names else {}  # an empty array is not kept
        kept, _ = self._checkpoints.restore(self.saved.number, like._asdict() | sums)
        values = kept.pop("sums", ())
        return OnlineState(**kept), {name: Weighted(*pair) for name, pair in zip(names, values, strict=True)} or None

    def keep(self, state: OnlineState, step: int, failed: rows.Failures, sums: Metrics | None = None) -> None:
        """Writes a checkpoint; with sums of metrics one between two evaluations, of which ``step`` is the last."""
        values = {} if sums is None else {"sums": np.array([[one.total, one.weight] for one in sums.values()])}
        is_whole, names = sums is None, tuple(sums or ())
        main = len(self.planned.stored.method.phases) - 1
        now = Saved(self.saved.number + 1, step, is_whole, failed, self.ledger.standing, names)
        record = {
            "phase": main if is_whole else UNFINISHED,
            "step": step,
            "failures": {str(place): reason for place, reason in failed.items()},
            "rows": self.ledger.standing.entries(),
            "metrics": list(names),
        }
        self._checkpoints.save(now.number, state._asdict() | values, record)
        self._checkpoints.settle()
        self.saved = now

    def commit(
        self,
        state: OnlineState,
        step: int,
        failed: rows.Failures,
        means: Mapping[str, np.ndarray],
        evaluations: Sequence[Any],
    ) -> None:
        """Keeps an evaluation and the updates before it: rows, status, checkpoint."""
        config = self.planned.config
        phase = self.planned.stored.method.phases[-1].name
        metrics = [rows.metrics_record(phase, self.runs, self.group, step, means)] if means else []
        self.ledger.append(metrics, evaluations)
        states = rows.statuses(self.runs, self.group, failed, step == config.steps)
        others = {one.run: one for one in read_status(self._folder.path)}
        self._folder.write_status({**others, **{run: RunStatus(run, state) for run, state in states.items()}}.values())
        self.keep(state, step, failed)
        self._say(f"step {step:,} of {config.steps:,}")


def _go_on(planned: Plan, record: GroupRecord, progress: Progress) -> None:
    """Brings a group to its end: evaluate, keep; then turn by turn play, store, learn, until the next evaluation."""
    config, rule, count = planned.config, planned.asked.rule, len(record.runs)
    main = planned.stored.method.phases[-1].name
    program = Program(planned.stored.method, planned.stored.spec, "uniform", run_sharding(count))
    state, setup = _begin(planned, record.group, program)
    data, sums = program.replicate(planned.data.transitions), None
    own = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf[:count]), tree)  # noqa: E731
    if record.saved.number:
        kept, kept_sums = record.restore(own(state))
        state = program.from_host(kept)
        sums = None if kept_sums is None else program.from_host(kept_sums)
    failed = dict(record.saved.failed)
    name = f"{planned.task.id} {config.method} online"
    progress.begin(name, count, config.steps, max(record.saved.step, 0))
    shown = max(record.saved.step, 0)
    fraction = jnp.float32(rule.offline_fraction)
    with ExitStack() as stack:
        simulators = [
            stack.enter_context(closing(make_simulator(planned.task, count * episodes)))
            for episodes in (rule.episodes, config.episodes)
        ]
        for step in _evaluations(config, record.saved):
            while True:
                live = np.array([place not in failed for place in range(count)])
                due = np.where(live, owed(state, setup, rule.updates_per_step)[:count], 0)
                taken = np.asarray(state.taken[:count])
                playing = live & (taken < step)
                if due.any():
                    progress.doing("")
                    piece = program.place(jnp.asarray(np.minimum(due, PIECE), jnp.int32))
                    state, more = learn_online(program, state, piece, fraction, setup, data)
                    sums = jax.block_until_ready(add_metrics(sums, more))
                    found = rows.new_failures(main, np.asarray(state.first_bad_step[:count]).tolist(), failed)
                    for place, reason in found.items():
                        progress.note(f"{name}: {record.runs[place].label} failed: {reason}; the others go on")
                    failed |= found
                elif playing.any():
                    progress.doing("playing")
                    played = play_episodes(program, state, setup, simulators[0], rule, playing)
                    state = keep_episodes(program, state, setup, program.from_host(played))
                else:
                    break
                if progress.stop_status() is not None:
                    # Without a sum there is nothing between two evaluations that counts: it is played anew.
                    if sums is not None:
                        record.keep(own(state), record.saved.step, failed, own(sums))
                    _stop(progress, f"{name}: stopped at step {shown:,}")
                now = int(min(step, taken[live].min())) if live.any() else step
                if not due.any() and now > shown:
                    progress.advance(now - shown)
                    shown = now
            if step > shown:
                progress.advance(step - shown)
                shown = step
            progress.doing("evaluating")
            means = own_means(sums, count)
            evaluations, scores = _evaluate(planned, record, program, state, setup, simulators[1], step, failed)
            record.commit(own(state), step, failed, means, evaluations)
            sums = None
            runs = zip(record.group.runs, scores.tolist(), strict=True)
            progress.evaluated(step, [Score(run.seed, run.setting, score) for run, score in runs])
            if len(failed) == count:
                break
            if step < config.steps and progress.stop_status() is not None:
                _stop(progress, f"{name}: stopped at step {step:,}")


def own_means(sums: Metrics | None, count: int) -> dict[str, np.ndarray]:
    """Means over the updates of runs, without padding; nothing where there were none."""
    return {} if sums is None else {name: values[:count] for name, values in mean_metrics(sums).items()}


def _stop(progress: Progress, what: str) -> None:
    status = progress.stop_status()
    assert status is not None
    raise Stopped(f"{what}; the same command with --resume goes on", status)


def _evaluations(config: Config, saved: Saved) -> list[int]:
    """The steps of the environment at which runs are still to be evaluated."""
    found = [0, *(stop for _, _, stop in bounds([config.steps], config.eval_interval))]
    return [step for step in found if step > saved.step]


def _begin(planned: Plan, group: Group, program: Program) -> tuple[OnlineState, OnlineSetup]:
    """The runs as their training left them, with room for what they will meet."""
    stored, asked, config = planned.stored, planned.asked, planned.config
    trained = [planned.trained[config.run(run.seed, run.setting)] for run in group.runs]
    steps = [stored.chosen_step(run, asked.step) for run in trained]
    acting = [stored.acting(run, step) for run, step in zip(trained, steps, strict=True)]
    exploring = [
        acting_differently(config.method, config.variant, run.hyper, dict(asked.exploring)) for run in group.runs
    ]
    setups = [
        OnlineSetup(
            RunSetup(random_key(run.seed), planned.data.part._replace(observation=one.observation), run.hyper),
            jnp.int32(step),
            explores,
        )
        for run, one, step, explores in zip(group.runs, acting, steps, exploring, strict=True)
    ]
    states = [
        OnlineState(
            one.state,
            one.observation,
            empty_replay(asked.capacity, stored.spec, stored.method.view),
            jnp.int32(step),
            jnp.int32(0),
            jnp.int32(NEVER),
        )
        for one, step in zip(acting, steps, strict=True)
    ]
    return program.place(stack_runs(states)), program.place(stack_runs(setups))


def _evaluate(
    planned: Plan,
    record: GroupRecord,
    program: Program,
    state: OnlineState,
    setup: OnlineSetup,
    simulator: VectorSimulator,
    step: int,
    failed: rows.Failures,
) -> tuple[list[Any], np.ndarray]:
    """The rows of an evaluation by the protocol of the training, and the runs' scores, NaN of those that failed."""
    config, count = planned.config, len(record.runs)
    keys = episode_keys(setup.run.key[:count], step, config.episodes)
    played = evaluate(keys, program, state.acting(setup.run.hyper), simulator)
    scores = rows.scores_of(planned.task, played)
    scores = np.where([place in failed for place in range(count)], np.nan, scores)
    method, runs = planned.stored.method, record.group.runs
    found = rows.evaluation_rows(config, method, simulator.version, runs, [step] * count, played, scores)
    return found, scores
