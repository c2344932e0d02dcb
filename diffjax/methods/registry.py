"""The methods by name and variant: the only place that knows their names."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffjax.errors import UserError, first_line, unknown_name
from diffjax.methods import (
    awac,
    bc,
    cql,
    dac,
    diffcps,
    diffpogan,
    diffpogan_paper,
    diffuser,
    diffusion_bc,
    dql,
    dtql,
    dtql_kl,
    edp,
    edp_crr,
    edp_iql,
    fql,
    idql,
    ifql,
    iql,
    qgpo,
    rebrac,
    sfbc,
    td3_bc,
)
from diffjax.methods.base import Method
from diffjax.methods.checks import check_method

Variants = dict[str, Method[Any, Any]]


PROBLEMS: dict[str, UserError] = {}
"""Methods that do not provide what a method must, found where they are registered and said where one is used."""


def _registered(methods: dict[str, Variants]) -> dict[str, Variants]:
    """The methods, each looked at once; a broken one is a matter of who uses it, not of all others."""
    for name, variants in methods.items():
        for method in variants.values():
            try:
                check_method(name, method)
            except UserError as problem:
                PROBLEMS[name] = problem
    return methods


METHODS = _registered(
    {
        "dac": {"default": dac.METHOD},
        "dtql": {"default": dtql.METHOD, "one_action": dtql.METHOD},
        "diffcps": {"default": diffcps.METHOD},
        "diffpogan": {"code": diffpogan.METHOD, "paper": diffpogan_paper.METHOD},
        "dql": {"default": dql.METHOD},
        "dtql_kl": {"default": dtql_kl.METHOD},
        "diffusion_bc": {"default": diffusion_bc.METHOD},
        "iql": {"default": iql.METHOD, "corl": iql.METHOD},
        "td3_bc": {"default": td3_bc.METHOD},
        "rebrac": {"default": rebrac.METHOD},
        "awac": {"default": awac.METHOD},
        "cql": {"default": cql.METHOD},
        "idql": {"default": idql.METHOD, "general": idql.GENERAL},
        "fql": {"default": fql.METHOD},
        "ifql": {"default": ifql.METHOD},
        "edp": {"td3": edp.METHOD, "crr": edp_crr.METHOD, "iql": edp_iql.METHOD, "code": edp.METHOD},
        "qgpo": {"default": qgpo.METHOD},
        "sfbc": {"default": sfbc.METHOD},
        "diffuser": {"default": diffuser.METHOD},
        "bc": {"default": bc.METHOD},
    }
)
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
    if name in PROBLEMS:
        raise PROBLEMS[name]
    variants = METHODS[name]
    variant = variant or next(iter(variants))
    if variant not in variants:
        raise unknown_name(f"variant of {name}:", variant, variants)
    return variants[variant], variant
