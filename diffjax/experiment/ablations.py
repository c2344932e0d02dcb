"""The ablations that the papers run, from ``ablations.toml``: what each varies, on which tasks, and its columns.

Tables are data; this file only turns them into the settings of a sweep and into columns in order. A column is a method
with a setting; under ``factors`` the setting differs from task to task and the column is the factor.
"""

import functools
import importlib.resources
import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from diffjax.errors import unknown_name
from diffjax.experiment.settings import check_overrides, parse_setting, resolve
from diffjax.methods.registry import get_method
from diffjax.tasks.registry import suite_tasks, suites


@dataclass(frozen=True)
class Ablation:
    """One table of ``ablations.toml``, whose head describes the fields."""

    name: str
    title: str
    methods: tuple[str, ...]
    symbol: str
    tasks: tuple[str, ...]
    tasks_from: str  # the paper | this project
    reported: str
    source: str
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    factors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    study: str = ""
    study_settings: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """The hyper-parameters that are varied; none where only methods are."""
        return (*self.values, *self.factors)


class Column(NamedTuple):
    """A column of an ablation's table on one task: what was trained, and what the head of the column says."""

    method: str
    variant: str
    setting: str  # as in the results folder: "num_critics=5"
    label: str


def _ablation(name: str, table: dict[str, Any]) -> Ablation:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return Ablation(name, **fields)


@functools.cache
def _tables() -> dict[str, Ablation]:
    text = (importlib.resources.files(__package__) / "ablations.toml").read_text(encoding="utf-8")
    return {name: _ablation(name, table) for name, table in tomllib.loads(text).items()}


def ablation_names() -> tuple[str, ...]:
    """Every ablation, in the table's order."""
    return tuple(_tables())


def get_ablation(name: str) -> Ablation:
    """The ablation of that name.

    Raises:
      UserError: for an unknown name; it names the closest ones or lists all.
    """
    tables = _tables()
    if name not in tables:
        raise unknown_name("ablation", name, tables)
    return tables[name]


def default_tasks(ablation: Ablation) -> tuple[str, ...]:
    """Ids of the tasks that the ablation is run on unless the user names others; suites are written out."""
    known = suites()
    found = (suite_tasks(name) if name in known else (name,) for name in ablation.tasks)
    return tuple(dict.fromkeys(itertools.chain.from_iterable(found)))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values(ablation: Ablation, method: str, variant: str, task: str, preset: str) -> dict[str, list[tuple[str, str]]]:
    """For each parameter the texts ``(value, label)`` of its values on a task."""
    found = {name: [(_text(value), _text(value)) for value in values] for name, values in ablation.values.items()}
    for name, factors in ablation.factors.items():
        own = getattr(resolve(method, task, preset, variant).hyper, name)
        found[name] = [(f"{factor * own:.6g}", f"×{factor:g}") for factor in factors]
    return found


def columns(ablation: Ablation, task: str, preset: str = "paper") -> tuple[Column, ...]:
    """The columns of the ablation's table, in order, as they are trained on a task.

    Their number, order and labels are the same for every task and preset; settings may differ under ``factors``.

    Raises:
      UserError: if a method of the ablation is unknown.
    """
    found = []
    for name in ablation.methods:
        method, _, variant = name.partition(":")
        variant = get_method(method, variant)[1]
        by_parameter = _values(ablation, method, variant, task, preset)
        for combination in itertools.product(*by_parameter.values()):
            setting = ";".join(f"{key}={text}" for key, (text, _) in zip(by_parameter, combination, strict=True))
            parts = [label for _, label in combination]
            if len(ablation.methods) > 1 or not parts:
                parts = [name, *parts]
            found.append(Column(method, variant, setting, ", ".join(parts)))
    if ablation.labels:
        found = [column._replace(label=label) for column, label in zip(found, ablation.labels, strict=True)]
    return tuple(found)


def settings_of(ablation: Ablation, method: str, variant: str, task: str, preset: str) -> tuple[str, ...]:
    """The settings that a method is trained with on a task; ``variant`` is the full name or empty for the default."""
    variant = get_method(method, variant)[1]
    return tuple(
        column.setting
        for column in columns(ablation, task, preset)
        if (column.method, column.variant) == (method, variant)
    )


def published_column(ablation: Ablation, task: str, preset: str = "paper") -> int | None:
    """Place of the column with the published values of the method under study (the ablation's first).

    None where nothing is published for the task, or no column has the published values.
    """
    found = columns(ablation, task, preset)
    for index, column in enumerate(found):
        if (column.method, column.variant) != (found[0].method, found[0].variant):
            break
        own = resolve(column.method, task, "paper", column.variant)
        varied = check_overrides(column.method, column.variant, parse_setting(column.setting))
        if own.tuning == "published" and all(getattr(own.hyper, name) == value for name, value in varied.items()):
            return index
    return None


def caption(ablation: Ablation) -> str:
    """What a reader of the ablation's table must know: what varies, what is marked, what the paper says."""
    named = f"{ablation.symbol} ({', '.join(ablation.parameters)})" if ablation.parameters else ablation.symbol
    times = ", times each task's own value" if ablation.factors else ""
    return (
        f"{ablation.title}. Columns: {named}{times}; * marks what is published for the task. "
        f"Tasks: chosen by {ablation.tasks_from}. Reported: {ablation.reported}. Source: {ablation.source}."
    )


def listing() -> str:
    """One line per ablation: its name and what it varies, for a help page."""
    width = max(map(len, _tables()))
    return "\n".join(f"  {name:<{width}}  {_varied(ablation)}" for name, ablation in _tables().items())


def _varied(ablation: Ablation) -> str:
    values = [f"{name}={','.join(map(_text, values))}" for name, values in ablation.values.items()]
    values += [
        f"{name}=own ×{','.join(f'{factor:g}' for factor in factors)}" for name, factors in ablation.factors.items()
    ]
    return " ".join([",".join(ablation.methods), *values])
