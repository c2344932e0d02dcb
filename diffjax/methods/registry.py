"""The methods by name and variant: the only place that knows their names."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from diffjax.errors import UserError, first_line, unknown_name

if TYPE_CHECKING:
    from diffjax.methods.base import Method

Variants: TypeAlias = "dict[str, Method[Any, Any]]"

HOMES = {
    "dac": {"default": "dac.METHOD"},
    "dtql": {"default": "dtql.METHOD", "one_action": "dtql.METHOD"},
    "diffcps": {"default": "diffcps.METHOD"},
    "diffpogan": {"code": "diffpogan.METHOD", "paper": "diffpogan_paper.METHOD"},
    "dql": {"default": "dql.METHOD"},
    "dtql_kl": {"default": "dtql_kl.METHOD"},
    "diffusion_bc": {"default": "diffusion_bc.METHOD"},
    "iql": {"default": "iql.METHOD", "corl": "iql.METHOD"},
    "td3_bc": {"default": "td3_bc.METHOD"},
    "rebrac": {"default": "rebrac.METHOD"},
    "awac": {"default": "awac.METHOD"},
    "cql": {"default": "cql.METHOD"},
    "idql": {"default": "idql.METHOD", "general": "idql.GENERAL"},
    "fql": {"default": "fql.METHOD"},
    "ifql": {"default": "ifql.METHOD"},
    "edp": {"td3": "edp.METHOD", "crr": "edp_crr.METHOD", "iql": "edp_iql.METHOD", "code": "edp.METHOD"},
    "qgpo": {"default": "qgpo.METHOD"},
    "sfbc": {"default": "sfbc.METHOD"},
    "diffuser": {"default": "diffuser.METHOD"},
    "bc": {"default": "bc.METHOD"},
}
"""Method name -> variant -> module below ``diffjax.methods`` and the name in it."""


PROBLEMS: dict[str, UserError] = {}
"""Methods that do not provide what a method must, found where they are imported and said where one is used."""


class Methods(MutableMapping[str, Variants]):
    """Methods by name; the names are known without them, and each is imported when it is first looked up."""

    def __init__(self, homes: Mapping[str, Mapping[str, str]]) -> None:
        self._homes = homes
        self._found: dict[str, Variants | None] = dict.fromkeys(homes)

    def __getitem__(self, name: str) -> Variants:
        variants = self._found[name]
        if variants is None:
            variants = self._found[name] = _registered(name, {v: _imported(at) for v, at in self._homes[name].items()})
        return variants

    def __setitem__(self, name: str, variants: Variants) -> None:
        self._found[name] = variants

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, name: object) -> bool:
        return name in self._found


def _imported(home: str) -> Method[Any, Any]:
    module, _, name = home.partition(".")
    method: Method[Any, Any] = getattr(importlib.import_module(f"diffjax.methods.{module}"), name)
    return method


def _registered(name: str, variants: Variants) -> Variants:
    """The variants, each looked at once; a broken one is a matter of who uses it, not of all others."""
    from diffjax.methods.checks import check_method

    for method in variants.values():
        try:
            check_method(name, method)
        except UserError as problem:
            PROBLEMS[name] = problem
    return variants


METHODS: MutableMapping[str, Variants] = Methods(HOMES)
"""Method name -> variant -> functions; the first variant is the default."""


TABLES: dict[str, Mapping[str, Any]] = {}
"""The tables of hyper-parameters of methods that were registered from outside; the others are files."""


def register_method(
    name: str, variants: Method[Any, Any] | Mapping[str, Method[Any, Any]], table: Mapping[str, Any] | str | None = None
) -> None:
    """Adds a method, for ``--method=NAME`` and :func:`diffjax.train`; one of that name from outside is replaced.

    Args:
      variants: the method, or several by name, the first being the default.
      table: its hyper-parameters and protocol by task, as ``methods/*.toml`` hold them: parsed, or the path of such a
        file; None: its defaults everywhere.

    Raises:
      UserError: the name is one of diffjax's own, the method lacks what a method must provide, or the table is none.
    """
    if name in METHODS and name not in TABLES:
        raise UserError(f"method {name} is one of diffjax's own; choose another name")
    if not name.isidentifier():
        raise UserError(f"method {name!r}: a name is letters, digits and underscores")
    from diffjax.methods.base import Method
    from diffjax.methods.checks import check_method

    named = {"default": variants} if isinstance(variants, Method) else dict(variants)
    for method in named.values():
        check_method(name, method)
    if isinstance(table, str):
        try:
            table = tomllib.loads(Path(table).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"the table of method {name} cannot be read: {first_line(error)}") from None
    METHODS[name], TABLES[name] = named, table or {}


def get_method(name: str, variant: str = "") -> tuple[Method[Any, Any], str]:
    """The method and the variant's full name (the default one for an empty ``variant``).

    Raises:
      UserError: for an unknown name or variant, or a method that lacks what a method must provide.
    """
    if name not in METHODS:
        raise UserError(f"{unknown_name('method', name, METHODS)} (a method of your own needs its --plugin)")
    variants = METHODS[name]
    if name in PROBLEMS:
        raise PROBLEMS[name]
    variant = variant or next(iter(variants))
    if variant not in variants:
        raise unknown_name(f"variant of {name}:", variant, variants)
    return variants[variant], variant
