"""The methods by name and variant: the only place that knows their names."""

from typing import Any

from diffjax.errors import UserError, unknown_name
from diffjax.methods import (
    bc,
    dac,
    diffcps,
    diffpogan,
    diffpogan_paper,
    diffusion_bc,
    dql,
    dtql,
    dtql_kl,
    iql,
    rebrac,
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
        "iql": {"default": iql.METHOD},
        "td3_bc": {"default": td3_bc.METHOD},
        "rebrac": {"default": rebrac.METHOD},
        "bc": {"default": bc.METHOD},
    }
)
"""Method name -> variant -> functions; the first variant is the default."""


def get_method(name: str, variant: str = "") -> tuple[Method[Any, Any], str]:
    """The method and the variant's full name (the default one for an empty ``variant``).

    Raises:
      UserError: for an unknown name or variant, or a method that lacks what a method must provide.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    if name in PROBLEMS:
        raise PROBLEMS[name]
    variants = METHODS[name]
    variant = variant or next(iter(variants))
    if variant not in variants:
        raise unknown_name(f"variant of {name}:", variant, variants)
    return variants[variant], variant
