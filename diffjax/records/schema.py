"""The types of what a run writes: who it is, the configuration of its experiment, its evaluations and its state."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np

from diffjax.errors import UserError
from diffjax.records.entries import from_entries, is_a, to_entries
from diffjax.types import ActionBounds

FORMAT_VERSION = 1
"""Of results folders. A folder without one is of version 0, which says the same but for the number."""
SELECTION_RULES = {
    "last": "last evaluation",
    "last5": "mean of last 5",
    "last10": "mean of last 10",
    "best": "best over training (oracle)",
    "offline": "selected offline by the cloning loss",
}
"""How a paper takes one number from a run's evaluations (``selection`` in the tables of hyper-parameters), in words."""
TUNINGS = ("published", "untuned", "quick")
LAST, BEST, ALL = "last", "best", "all"
"""Which checkpoints: the newest, that of each run's best evaluation among those kept, or every one."""
KEEP = (LAST, BEST, ALL)
"""Which checkpoints stay: the newest two; with each run's best evaluation; of every evaluation."""


class RunId(NamedTuple):
    """Which run something is of, among all that were ever made."""

    method: str
    variant: str
    task: str
    dataset: str  # the data set's fingerprint
    seed: int
    setting: str  # "" or "eta=0.1;rho=1.5"

    @property
    def label(self) -> str:
        """What tells it from the others of its experiment: ``seed 0 (eta=0.1)``."""
        return f"seed {self.seed}" + (f" ({self.setting})" if self.setting else "")


class Evaluation(NamedTuple):
    """One row of ``evaluations.csv``: one evaluation of one run."""

    method: str
    variant: str
    preset: str
    tuning: str  # published | untuned | quick
    task: str
    dataset: str  # the data set's label
    dataset_fingerprint: str
    env: str
    simulator: str  # name and version
    seed: int
    setting: str
    step: int  # updates of the main phase; of runs that went on online steps of the environment
    episodes: int
    return_mean: float
    return_std: float
    length_mean: float
    score: float  # normalised, x100
    candidates: int
    network_evaluations: int  # per action
    selection: str  # "argmax mean target Q of 10"
    actions: str = ""  # of the data, where they were clipped or scaled
    wall_time: str = ""  # when it was evaluated, UTC

    @property
    def run(self) -> RunId:
        """The run that was evaluated."""
        return RunId(self.method, self.variant, self.task, self.dataset_fingerprint, self.seed, self.setting)


class MetricsRecord(NamedTuple):
    """One line of ``metrics.jsonl``: means over the updates of an interval of a phase, one per run."""

    phase: str
    step: int
    runs: tuple[RunId, ...]
    metrics: Mapping[str, Sequence[float] | np.ndarray]
    wall_time: str = ""  # when the last of them took place, UTC


class RunStatus(NamedTuple):
    """One entry of ``status.json``; ``status`` is ``running``, ``complete`` or ``failed: reason``."""

    run: RunId
    status: str
    wall_time: str = ""  # since when, UTC

    @property
    def state(self) -> str:
        """``running``, ``complete`` or ``failed``."""
        return self.status.partition(":")[0]

    @property
    def reason(self) -> str:
        """Why a run failed, on one line; empty of any other."""
        return " ".join(self.status.partition(":")[2].split())


@dataclass(frozen=True)
class DatasetRecord:
    """What was learned from."""

    label: str
    fingerprint: str
    source: str | None = None
    transitions: int | None = None
    episodes: int | None = None
    return_mean: float | None = None
    action_low: tuple[float, ...] | None = None  # the actions that were learned as -1 and 1, where they were scaled
    action_high: tuple[float, ...] | None = None

    @property
    def action_bounds(self) -> ActionBounds | None:
        """Both, where actions were scaled."""
        if self.action_low is None or self.action_high is None:
            return None
        return ActionBounds(self.action_low, self.action_high)


@dataclass(frozen=True)
class ReferenceRecord:
    """The returns that score 0 and 100, where they are from, and whether the user gave them."""

    min: float | None = None
    max: float | None = None
    source: str | None = None
    given: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What of a configuration is known before any data are read; it makes an experiment another one."""

    method: str
    variant: str
    preset: str
    task: str
    suite: str
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    steps: int
    eval_interval: int
    episodes: int
    protocol: Mapping[str, Any] = field(default_factory=dict)  # of training; an entry for each of its fields
    tuning: str | None = None
    source: str | None = None  # of the hyper-parameters
    hyper: Mapping[str, Mapping[str, Any]]  # setting -> name -> value
    matmul_precision: str | None = None
    env: str | None = None
    ablation: str = ""
    plugins: tuple[str, ...] = ()  # the user's own files, by name and fingerprint
    jax_options: Mapping[str, Any] = field(default_factory=dict)  # of jax, those that differ from their default
    only: tuple[int, ...] = ()  # places of the runs that are here, where several processes train one experiment

    @property
    def selection(self) -> str:
        """By which of ``SELECTION_RULES`` the method's paper reads a run."""
        return str(self.protocol.get("selection", "last"))

    @property
    def offline_rank(self) -> int:
        """The k of the rule ``offline``."""
        return int(self.protocol.get("offline_rank", 0))

    @property
    def identity(self) -> dict[str, Any]:
        """The entries in which a folder must agree to be continued."""
        return to_entries(self)


@dataclass(frozen=True)
class OwnTask:
    """A task that is not in the program's table; ``env_id`` is empty where there is no simulator."""

    env_id: str
    observation_dim: int
    action_dim: int
    horizon: int = 0
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluatedAgain:
    """Of runs that were trained elsewhere: in which folder, and what of them was evaluated."""

    source: str
    step: str  # "last", "best", "all" or a number of updates
    first_episode: int = 0  # number of the first episode; those of training count from 0


@dataclass(frozen=True)
class WentOnline:
    """Of runs that were trained on data elsewhere and went on online: from where, and by which rule.

    Rewards are those that they learned from the data with: ``reward_scale r + reward_shift``.
    """

    source: str
    step: str  # "last", "best" or a number of updates
    capacity: int  # of transitions that each run keeps
    offline_fraction: float  # of each minibatch
    updates_per_step: float
    episodes_per_turn: int
    noise: float = 0.0
    exploring: Mapping[str, Any] = field(default_factory=dict)  # how runs acted online, where otherwise than evaluated
    reward_scale: float = 1.0
    reward_shift: float = 0.0

    @property
    def words(self) -> str:
        """What tells it from others of the same runs."""
        more = [f"{name} {value}" for name, value in self.exploring.items()]
        more += [f"noise {self.noise:g}"] if self.noise else []
        more += [f"from {self.step}"] if self.step != "last" else []
        rule = f"offline fraction {self.offline_fraction:g}", f"updates per step {self.updates_per_step:g}"
        return ", ".join(["online", *rule, *more])


@dataclass(frozen=True)
class RunBlock:
    """Runs that came to an experiment together: of all pairs of these seeds and settings those that were not there."""

    seeds: tuple[int, ...]
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Execution:
    """Where and when an experiment was trained, and how long it took; all programs and starts of it together.

    ``hours`` are those of the programs that its runs trained in, ``hours_per_run`` the part of each run in them.
    """

    host: str
    devices_used: int
    start: str  # UTC
    end: str = ""  # UTC; empty while it trains, or when it was killed
    hours: float = 0.0
    hours_per_run: float = 0.0
    updates_per_second: float = 0.0  # of each run, without evaluating and saving
    evaluation_share: float = 0.0  # of the hours
    saving_share: float = 0.0


@dataclass(frozen=True)
class Resumption:
    """Where an experiment went on with other programs than it began with: when, and the versions that differ."""

    start: str  # UTC
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Config(Request):
    """The content of ``config.json``: an experiment, its data, and how and by what programs it was started."""

    dataset: DatasetRecord
    reference: ReferenceRecord = ReferenceRecord()
    versions: Mapping[str, str]
    flags: tuple[str, ...]
    own_task: OwnTask | None = None  # of a task that is not in the program's table
    again: EvaluatedAgain | None = None  # of a folder of evaluations alone
    online: WentOnline | None = None  # of runs that went on online: their steps are those of the environment
    blocks: tuple[RunBlock, ...] = ()  # of an experiment to which runs were added
    execution: Execution | None = None
    resumptions: tuple[Resumption, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """All but how, where and by what programs it was trained, and which runs came later."""
        history = ("versions", "flags", "blocks", "execution", "resumptions")
        return {name: entry for name, entry in super().identity.items() if name not in history}

    def other_versions(self, now: Mapping[str, str]) -> dict[str, str]:
        """Of versions that a number may depend on those that are not what they were when this began or last went on."""
        before = dict(self.versions)
        for resumption in self.resumptions:
            before |= resumption.versions
        return {name: now[name] for name in now if name != "devices" and now[name] != before.get(name)}

    def begun(self, host: str, devices: int, now: str, versions: Mapping[str, str]) -> Self:
        """As it stands in the folder where runs begin or go on: with where, and with versions that are others now."""
        before = self.execution or Execution(host, devices, now)
        execution = replace(before, host=host, devices_used=devices, end="")
        others = self.other_versions(versions)
        resumptions = self.resumptions + ((Resumption(now, others),) if others else ())
        return replace(self, execution=execution, resumptions=resumptions)

    def run(self, seed: int, setting: str) -> RunId:
        """The run of a seed and a setting."""
        return RunId(self.method, self.variant, self.task, self.dataset.fingerprint, seed, setting)

    @property
    def evaluated(self) -> str:
        """How runs went on or were evaluated that were trained elsewhere, in words; empty of all others."""
        online = self.online.words if self.online is not None else ""
        return ", ".join(filter(None, (online, self._evaluated_again)))

    @property
    def _evaluated_again(self) -> str:
        if self.again is None:
            return ""
        step = {"last": "", "best": "best step, ", "all": "every step, "}.get(
            self.again.step, f"step {self.again.step}, "
        )
        first = f" from number {self.again.first_episode}" if self.again.first_episode else ""
        return f"again: {step}{self.episodes} episodes{first}"

    @property
    def runs(self) -> tuple[RunId, ...]:
        """All runs that are here, in the order of the run axis."""
        found = tuple(self.run(seed, setting) for setting, seed in itertools.product(self.settings, self.seeds))
        return tuple(found[place] for place in self.only) if self.only else found

    def to_json(self) -> dict[str, Any]:
        """The configuration as ``config.json`` holds it."""
        return {"format_version": FORMAT_VERSION, **to_entries(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> "Config":
        """The configuration that ``config.json`` holds; ``where`` names the file.

        Raises:
          UserError: an entry is missing or wrong, or the folder is of a newer version than this program's.
        """
        version = content.get("format_version", 0)
        if not is_a(int, version) or not 0 <= version <= FORMAT_VERSION:
            raise UserError(
                f"{where}: format_version is {version!r}, this program reads 0 to {FORMAT_VERSION}; update diffjax"
            )
        config = from_entries(cls, content, where)
        if version == 0:  # which gave a pretraining of no length to methods that have none
            protocol = {
                name: value for name, value in config.protocol.items() if (name, value) != ("pretrain_steps", 0)
            }
            config = replace(config, protocol=protocol)
        for name, values in (("seeds", config.seeds), ("settings", config.settings)):
            if not values or len(set(values)) < len(values):
                raise UserError(f"{where}: {name} is {list(values)!r}, not a list without repeats of at least one")
        for setting in config.settings:
            if setting not in config.hyper:
                raise UserError(f"{where}: hyper has no entry {setting!r}, the hyper-parameters of that setting")
        for name, kind in (("selection", str), ("offline_rank", int)):
            if name in config.protocol and not is_a(kind, config.protocol[name]):
                raise UserError(f"{where}: protocol.{name} is {config.protocol[name]!r}, not of type {kind.__name__}")
        if config.selection not in SELECTION_RULES:
            rules = ", ".join(SELECTION_RULES)
            raise UserError(f"{where}: protocol.selection is {config.selection!r}, not one of {rules}")
        return config
