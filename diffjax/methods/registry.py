"""The methods by name and variant: the only place that knows their names."""

import difflib

from diffjax.errors import UserError
from diffjax.methods import bc, dac, diffcps, diffpogan, diffusion_bc, dql, dtql
from diffjax.methods.base import Method

METHODS: dict[str, dict[str, Method]] = {
    "dac": {"code": dac.METHOD},
    "dtql": {"code": dtql.METHOD, "one_action": dtql.METHOD},
    "diffcps": {"code": diffcps.METHOD},
    "diffpogan": {"code": diffpogan.METHOD, "paper": diffpogan.PAPER},
    "dql": {"code": dql.METHOD},
    "diffusion_bc": {"code": diffusion_bc.METHOD},
    "bc": {"code": bc.METHOD},
}
"""Method name -> variant -> functions; the first variant is the default."""


def suggest(name: str, known: list[str]) -> str:
    """``did you mean ...`` where something known is close, else the list of what is known."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def get_method(name: str, variant: str = "") -> tuple[Method, str]:
    """The method and the variant's full name (the default one for an empty ``variant``).

    Raises:
      UserError: for an unknown name or variant.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}; {suggest(name, sorted(METHODS))}")
    variants = METHODS[name]
    variant = variant or next(iter(variants))
    if variant not in variants:
        raise UserError(f"method {name} has no variant {variant!r}; {suggest(variant, list(variants))}")
    return variants[variant], variant
