"""Hyper-parameters and protocol of one (method, task, preset, variant), from the tables in ``methods/*.toml``.

Tables are data; this file only merges their layers (described at the head of each table) and checks every name and
range against the method's ``Hyper`` and :class:`Protocol`.
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
from diffjax.methods.base import check_hyper
from diffjax.methods.registry import get_method
from diffjax.ranges import KINDS, Range, check_fields
from diffjax.records.schema import SELECTION_RULES
from diffjax.types import OBSERVATIONS

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

    ``pretrain_steps`` below 1 is a share of ``steps``.
    """

    steps: int = _entry(1_000_000, at_least=1)  # updates of the main phase
    pretrain_steps: float = _entry(0.0, at_least=0, at_most=1e9)  # before it, where a method has such a phase
    eval_interval: int = _entry(50_000, at_least=1)  # updates between evaluations
    episodes: int = _entry(10, at_least=1)  # per evaluation and run
    reward: str = _entry("raw", REWARD_TRANSFORMS)  # name of the affine reward transform
    observation: str = _entry("", ("", *OBSERVATIONS))  # empty: as the method's view says
    action_clip: float = _entry(math.inf, above=0)  # the data's actions are clipped to +- this
    sampling: str = _entry("uniform", SAMPLINGS)  # uniform (with replacement) | shuffled (passes without)
    selection: str = _entry("last", SELECTION_RULES)  # the paper's own rule: last | last5 | best | offline
    offline_rank: int = _entry(0, at_least=0)  # offline: the k of top_k, evaluations before the end of the history


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


def sisters(task: str) -> tuple[str, ...]:
    """The task, then the D4RL tasks it stands for."""
    return tuple(dict.fromkeys([task, *(re.sub(pattern, replacement, task) for pattern, replacement in ALIASES)]))


def _row_name(tables: dict[str, Any], task: str) -> str | None:
    return next((name for name in sisters(task) if name in tables.get("task", {})), None)


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
    built = hyper_type(**hyper)
    check_hyper(built)
    return built, _checked(Protocol(**{name: value for name, value in values.items() if name in protocol_names}))


def _checked(protocol: Protocol) -> Protocol:
    check_fields(protocol)
    before = protocol.pretrain_steps
    if before >= 1 and before != int(before):
        raise UserError(f"pretrain_steps={before} is neither a whole number nor below 1, a share of steps")
    return protocol
