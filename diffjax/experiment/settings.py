"""Hyper-parameters and protocol of one (method, task, preset, variant), from the tables in ``methods/*.toml``.

Tables are data; this file only merges their layers (described at the head of each table) and checks every name and
type against the method's ``Hyper`` and :class:`Protocol`.
"""

import dataclasses
import fnmatch
import importlib.resources
import math
import re
import tomllib
from collections.abc import Iterable
from typing import Any, NamedTuple

from diffjax.data.rewards import REWARD_TRANSFORMS
from diffjax.data.sampling import SAMPLINGS
from diffjax.errors import UserError, unknown_name
from diffjax.methods.registry import get_method
from diffjax.records.schema import SELECTION_RULES

PRESETS = ("paper", "quick")

# A task without a row of its own reads that of the D4RL task it stands for.
ALIASES = ((r"^(maze2d-.*)-local$", r"\1-v1"), (r"^(.*)-local$", r"\1-v2"), (r"^(antmaze-.*)-v2$", r"\1-v0"))


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a run is trained and judged; nothing of this enters a gradient step."""

    steps: int = 0  # updates of the main phase
    pretrain_steps: float = 0.0  # updates before it, for a method that has such a phase; below 1: share of steps
    eval_interval: int = 0  # updates between evaluations
    episodes: int = 0  # per evaluation and run
    reward: str = "raw"  # name of the affine reward transform
    action_clip: float = float("inf")  # the data's actions are clipped to +- this
    sampling: str = "uniform"  # uniform (with replacement) | shuffled (passes without)
    selection: str = "last"  # the paper's own rule: last | last5 | best | offline
    offline_rank: int = 0  # offline: the k of top_k, evaluations before the end of the history


class Settings(NamedTuple):
    """Everything that the tables and the user fix for one experiment."""

    hyper: Any
    protocol: Protocol
    tuning: str  # published | untuned | quick
    source: str


def load_tables(method: str) -> dict[str, Any]:
    """The parsed table file of a method."""
    path = importlib.resources.files("diffjax.methods") / f"{method}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def stands_for(task: str) -> tuple[str, ...]:
    """The task, then the D4RL tasks it stands for."""
    return tuple(dict.fromkeys([task, *(re.sub(pattern, replacement, task) for pattern, replacement in ALIASES)]))


def _row_name(tables: dict[str, Any], task: str) -> str | None:
    return next((name for name in stands_for(task) if name in tables.get("task", {})), None)


def _matching(tables: dict[str, Any], section: str, task: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for pattern, row in tables.get(section, {}).items():
        if fnmatch.fnmatchcase(task, pattern):
            row = dict(row)
            like = row.pop("like", None)
            merged |= (tables["task"][like] if like else {}) | row
    return merged


def _convert(name: str, text: str, default: Any) -> Any:
    """``text`` as the type of ``default``; raises UserError naming the type."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int):
            return int(float(text)) if float(text).is_integer() else int(text)
        if isinstance(default, float):
            value = float(text)
            if not math.isfinite(value) and value != default:
                raise UserError(f"{name}={text} is not finite")
            return value
        if isinstance(default, tuple):
            return tuple(int(part) for part in text.strip("()[] ").split(",") if part.strip())
        return text
    except (KeyError, ValueError, OverflowError):
        kind = {bool: "true or false", int: "an integer", float: "a number", tuple: "integers like 256,256"}
        raise UserError(f"{name}={text} is not {kind[type(default)]}") from None


def _defaults(method: str, variant: str) -> dict[str, Any]:
    hyper = get_method(method, variant)[0].hyper()
    fields = {field.name: getattr(hyper, field.name) for field in dataclasses.fields(hyper)}
    return fields | dataclasses.asdict(Protocol())


def parse_setting(setting: str) -> dict[str, str]:
    """One setting of a grid, ``"eta=0.1;rho=1.5"``, as ``{"eta": "0.1", "rho": "1.5"}``; ``""`` gives ``{}``."""
    return dict(part.split("=", 1) for part in setting.split(";")) if setting else {}


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
    tables = load_tables(method)
    row = _row_name(tables, task)
    values = dict(tables["common"])
    values |= tables["task"][row] if row else _matching(tables, "untuned", task)
    tuning = "published" if row else "untuned"
    if preset == "quick":
        values |= _matching(tables, "quick", task)
        tuning = "quick"
    values |= tables.get("variant", {}).get(variant, {})
    values |= overrides or {}
    source = values.pop("source", "")
    return Settings(*_build(functions.hyper, values), tuning, source)


def _build(hyper_type: type, values: dict[str, Any]) -> tuple[Any, Protocol]:
    protocol_names = {field.name for field in dataclasses.fields(Protocol)}
    hyper_fields = {field.name: field for field in dataclasses.fields(hyper_type)}
    unknown = values.keys() - protocol_names - hyper_fields.keys()
    if unknown:
        raise ValueError(f"{hyper_type.__module__} has no hyper-parameter {', '.join(sorted(unknown))}")
    hyper = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in hyper_fields
    }
    for name, value in hyper.items():
        metadata = hyper_fields[name].metadata
        _check_choice(name, value, metadata.get("choices", ()))
        if not metadata.get("pytree_node", True) and type(value) is int:
            _check_positive(name, value)
    protocol = {name: value for name, value in values.items() if name in protocol_names}
    for name in ("steps", "eval_interval", "episodes"):
        _check_positive(name, protocol[name])
    _check_choice("selection", protocol["selection"], SELECTION_RULES)
    _check_choice("sampling", protocol["sampling"], SAMPLINGS)
    _check_choice("reward", protocol["reward"], REWARD_TRANSFORMS)
    return hyper_type(**hyper), Protocol(**protocol)


def _check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    known = list(choices)
    if known and value not in known:
        raise unknown_name(name, str(value), known)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name} must be at least 1, not {value}")
