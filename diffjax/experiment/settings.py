"""Hyper-parameters and protocol of one (method, task, preset, variant), from the tables in ``methods/*.toml``.

Tables are data; this file only merges their layers (described at the head of each table) and checks every name and
range against the method's ``Hyper`` and :class:`Protocol`.
"""

import dataclasses
import fnmatch
import functools
import importlib.resources
import math
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from diffjax.data.rewards import REWARD_TRANSFORMS
from diffjax.data.trajectories import TRAJECTORY_RULES
from diffjax.errors import UserError, unknown_name
from diffjax.methods.registry import TABLES, get_method
from diffjax.ranges import KINDS, Range, check_fields
from diffjax.records.schema import SELECTION_RULES
from diffjax.types import ACTIONS, OBSERVATIONS, SAMPLINGS

if TYPE_CHECKING:
    from diffjax.methods.base import Method

PRESETS = ("paper", "quick")

# A task without a row of its own reads that of the D4RL task it stands for.
ALIASES = ((r"^(maze2d-.*)-local$", r"\1-v1"), (r"^(.*)-local$", r"\1-v2"), (r"^(antmaze-.*)-v2$", r"\1-v0"))


def _entry(default: Any, choices: Iterable[str] = (), **bounds: Any) -> Any:
    """A field of the protocol with its choices or its range."""
    metadata = {"range": Range(**bounds)} if bounds else {"choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a run is trained and judged; nothing of this enters a gradient step.

    ``phase_steps`` has the updates of each phase before the main one, below 1 as a share of ``steps``; the entry of
    phase ``NAME`` is called ``NAME_steps`` in tables and for ``--set``.
    """

    steps: int = _entry(1_000_000, at_least=1)  # updates of the main phase
    eval_interval: int = _entry(50_000, at_least=1)  # updates between evaluations
    episodes: int = _entry(10, at_least=0)  # per evaluation and run; 0: no simulator is asked
    trajectories: str = _entry("", ("", *TRAJECTORY_RULES))  # empty: as recorded
    reward: str = _entry("raw", REWARD_TRANSFORMS)  # name of the affine reward transform
    observation: str = _entry("", ("", *OBSERVATIONS))  # empty: as the method's view says
    action_clip: float = _entry(math.inf, above=0)  # the data's actions are clipped to +- this
    actions: str = _entry("", ACTIONS)  # of the data: as recorded | clip | scale
    sampling: str = _entry("uniform", SAMPLINGS)  # uniform (with replacement) | shuffled (passes without)
    selection: str = _entry("last", SELECTION_RULES)  # the paper's own rule: last | last5 | last10 | best | offline
    offline_rank: int = _entry(0, at_least=0)  # offline: the k of top_k, evaluations before the end of the history
    phase_steps: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def entries(self) -> dict[str, Any]:
        """The entries by the names of tables and ``--set``; some only where they are set."""
        values = {name: getattr(self, name) for name in PROTOCOL_ENTRIES}
        for name in ("trajectories", "observation", "actions"):
            if not values[name]:
                del values[name]
        return values | {_steps_entry(phase): steps for phase, steps in self.phase_steps.items()}


SECTIONS = ("common", "task", "untuned", "quick")  # of a table, and of a variant's own
PROTOCOL_ENTRIES = tuple(field.name for field in dataclasses.fields(Protocol) if field.name != "phase_steps")
PHASE_STEPS = Range(at_least=0, at_most=1e9)


def _steps_entry(phase: str) -> str:
    return f"{phase}_steps"


def phase_entries(method: "Method[Any, Any]") -> dict[str, str]:
    """The entries that hold the lengths of the phases before the main one, and these phases."""
    return {_steps_entry(phase.name): phase.name for phase in method.phases[:-1]}


class Settings(NamedTuple):
    """Everything that the tables and the user fix for one experiment."""

    hyper: Any
    protocol: Protocol
    tuning: str  # published | untuned | quick
    source: str


def load_tables(method: str) -> dict[str, Any]:
    """The parsed table of a method: a file beside it, or what it was registered with."""
    if method in TABLES:
        return {"common": {}, **TABLES[method]}
    return _file_table(method)


@functools.cache
def _file_table(method: str) -> dict[str, Any]:
    """The table beside a method of ours; nobody changes it."""
    path = importlib.resources.files("diffjax.methods") / f"{method}.toml"
    if not path.is_file():
        raise UserError(f"method {method} has no table; write diffjax/methods/{method}.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _of_variant(tables: dict[str, Any], variant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A table as a variant has it, whose own sections stand in the place of the method's; and its other entries."""
    own = tables.get("variant", {}).get(variant, {})
    sections = {name: own[name] for name in SECTIONS if name in own}
    return tables | sections, {name: value for name, value in own.items() if name not in sections}


def stands_for(task: str) -> tuple[str, ...]:
    """The task, then the D4RL tasks it stands for."""
    return tuple(dict.fromkeys([task, *(re.sub(pattern, replacement, task) for pattern, replacement in ALIASES)]))


def _row_name(tables: dict[str, Any], task: str) -> str | None:
    return next((name for name in stands_for(task) if name in tables.get("task", {})), None)


def _matching(tables: dict[str, Any], section: str, task: str, known: Collection[str]) -> dict[str, Any]:
    """The rows of a section whose pattern fits a task, merged in order."""
    merged: dict[str, Any] = {}
    for pattern, row in tables.get(section, {}).items():
        if fnmatch.fnmatchcase(task, pattern):
            row = dict(row)
            merged |= _like(row.pop("like", ""), tables, section, task, known) | row
    return merged


def _like(name: str, tables: dict[str, Any], section: str, task: str, known: Collection[str]) -> dict[str, Any]:
    """The row that ``like`` names: of a task, or ``METHOD/TASK``, ``*`` for what that method's table says of this task.

    Of another method's row only the entries are taken that this method has: ``known``.
    """
    method, _, row = name.rpartition("/")
    if not method:
        return dict(tables["task"][row]) if row else {}
    tables = load_tables(method)
    if row != "*":
        found = tables["task"][row]
    elif section == "quick":
        found = _matching(tables, section, task, known)
    else:
        found, _ = _own_row(tables, task, known)
    return {entry: value for entry, value in found.items() if entry in known}


def _own_row(tables: dict[str, Any], task: str, known: Collection[str]) -> tuple[dict[str, Any], bool]:
    """What a table says of a task, and whether it is a published row."""
    name = _row_name(tables, task)
    if name is None:
        return _matching(tables, "untuned", task, known), False
    row = dict(tables["task"][name])
    return _like(row.pop("like", ""), tables, "task", task, known) | row, True


def _convert(name: str, text: str, default: Any) -> Any:
    """``text`` as the type of ``default``; raises UserError naming the type."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int):
            return _integer(text)
        if isinstance(default, float):
            return float(text)
        if isinstance(default, tuple):
            return _integers(text)
        return text
    except (KeyError, ValueError, OverflowError):
        raise UserError(f"{name}={text} is not {KINDS[type(default)]}") from None


def _integer(text: str) -> int:
    """``100``, or ``1e2``."""
    return int(float(text)) if float(text).is_integer() else int(text)


def _integers(text: str) -> tuple[int, ...]:
    """``256,256``, perhaps in brackets and with a comma at the end; ``()`` for none."""
    text = text.strip()
    if (text[:1], text[-1:]) in (("(", ")"), ("[", "]")):
        text = text[1:-1].strip()
    text = text.removesuffix(",")
    return tuple(map(int, text.split(","))) if text else ()


def _defaults(method: str, variant: str) -> dict[str, Any]:
    functions, _ = get_method(method, variant)
    hyper, protocol = functions.hyper(), Protocol()
    fields = {field.name: getattr(hyper, field.name) for field in dataclasses.fields(hyper)}
    fields |= {name: getattr(protocol, name) for name in PROTOCOL_ENTRIES}
    return fields | dict.fromkeys(phase_entries(functions), 0.0)


def setting_names(method: str, variant: str) -> set[str]:
    """Everything of a method that ``--set`` takes."""
    return set(_defaults(method, variant))


def parse_setting(setting: str) -> dict[str, str]:
    """One setting of a grid, ``"eta=0.1;rho=1.5"``, as ``{"eta": "0.1", "rho": "1.5"}``; ``""`` gives ``{}``."""
    return dict(part.split("=", 1) for part in setting.split(";")) if setting else {}


def join_setting(values: Mapping[str, str]) -> str:
    """What :func:`parse_setting` reads."""
    return ";".join(f"{name}={value}" for name, value in values.items())


def check_overrides(method: str, variant: str, overrides: dict[str, str]) -> dict[str, Any]:
    """Converts ``name -> text`` to the types of the method's fields.

    Raises:
      UserError: for an unknown name or a value of another type.
    """
    known = _defaults(method, variant)
    for name in overrides:
        if name not in known:
            raise unknown_name(f"setting of {method}:", name, sorted(known))
    return {name: _convert(name, text, known[name]) for name, text in overrides.items()}


def acting_differently(method: str, variant: str, hyper: Any, overrides: dict[str, str]) -> Any:
    """Hyper-parameters with other values of what only acting reads.

    Raises:
      UserError: training reads one too, it is unknown, or its value is out of range.
    """
    from diffjax.methods.base import acting_values

    free = acting_values(hyper)
    for name in overrides:
        if name not in free:
            raise unknown_name(f"setting of {method} that only acting reads:", name, sorted(free))
    hyper = dataclasses.replace(hyper, **check_overrides(method, variant, overrides))
    check_fields(hyper)
    return hyper


def resolve(
    method: str, task: str, preset: str = "paper", variant: str = "", overrides: dict[str, Any] | None = None
) -> Settings:
    """Merges all layers for one (method, task, preset, variant) and the user's ``overrides``.

    Raises:
      UserError: for an unknown method, variant or preset, or an override that does not fit.
    """
    functions, variant = get_method(method, variant)
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    tables, of_variant = _of_variant(load_tables(method), variant)
    known = _defaults(method, variant)
    row, is_published = _own_row(tables, task, known)
    tuning = "published" if is_published else "untuned"
    if preset == "quick":
        row |= _matching(tables, "quick", task, known)
        tuning = "quick"
    values = tables["common"] | row | of_variant | (overrides or {})
    source = values.pop("source", "")
    return Settings(*_build(functions, values), tuning, source)


def _build(method: "Method[Any, Any]", values: dict[str, Any]) -> tuple[Any, Protocol]:
    lengths = phase_entries(method)
    hyper_fields = {field.name for field in dataclasses.fields(method.hyper)}
    where = method.hyper.__module__
    if unknown := values.keys() - hyper_fields - lengths.keys() - set(PROTOCOL_ENTRIES):
        raise UserError(f"{where} has no hyper-parameter {', '.join(sorted(unknown))}, which its table names")
    if missing := lengths.keys() - values.keys():
        raise UserError(f"the table of {where} gives no {', '.join(sorted(missing))}, the length of a phase")
    built = method.hyper(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name in hyper_fields
        }
    )
    check_fields(built)
    protocol = Protocol(
        **{name: values[name] for name in PROTOCOL_ENTRIES if name in values},
        phase_steps={phase: values[name] for name, phase in lengths.items()},
    )
    check_fields(protocol)
    for name in lengths:
        PHASE_STEPS.check(name, values[name])
        if values[name] >= 1 and values[name] != int(values[name]):
            raise UserError(f"{name}={values[name]} is neither a whole number nor below 1, a share of steps")
    return built, protocol
