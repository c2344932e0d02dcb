"""The range of a value that a user may set: stated once where its field is declared, and said to who leaves it."""

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np

from diffjax.errors import UserError, unknown_name

LARGEST_INTEGER = 2**31 - 1  # of int32, which the integers of a program are

LARGEST_FLOAT = float(np.finfo(np.float32).max)
NO_OTHERS: Mapping[str, Any] = MappingProxyType({})

Bound = float | str | None  # a number, the name of another field, or none


class Range(NamedTuple):
    """The numbers within bounds."""

    above: Bound = None
    at_least: Bound = None
    below: Bound = None
    at_most: Bound = None
    multiple_of: int | None = None

    @property
    def words(self) -> str:
        """``above 0 and at most eta_max``; empty without bounds."""
        bounds = {"above": self.above, "at least": self.at_least, "below": self.below, "at most": self.at_most}
        said = [
            f"{words} {bound if isinstance(bound, str) else f'{bound:g}'}"
            for words, bound in bounds.items()
            if bound is not None
        ]
        if self.multiple_of is not None:
            said.append(f"a multiple of {self.multiple_of}")
        return " and ".join(said)

    def check(
        self,
        name: str,
        value: float | tuple[int, ...],
        others: Mapping[str, Any] = NO_OTHERS,
        whole: bool = False,
        finite: bool = True,
    ) -> None:
        """That a number, or each of a tuple, lies inside as a program holds it: in int32 if ``whole``, else in float32.

        ``others`` has the fields that bounds name. An infinity is inside if not ``finite``; NaN never is.

        Raises:
          UserError: for a number outside.
        """
        numbers, each = (value, "each") if isinstance(value, tuple) else ((value,), "it")
        held = [_held(number, whole) for number in numbers]
        bounds = self._bounds(others)

        def inside(number: float) -> bool:
            return (
                not math.isnan(number)
                and not (finite and math.isinf(number))
                and (self.multiple_of is None or number % self.multiple_of == 0)
                and all(bound.holds(number, _held(bound.value)) for bound in bounds)
            )

        if all(map(inside, held)):
            return
        right = [bound.words for bound in bounds]
        if self.multiple_of is not None:
            right.append(f"a multiple of {self.multiple_of}")
        if not all(map(math.isfinite, numbers)):
            right.append("finite")
        elif not all(map(math.isfinite, held)):
            right.append(f"at most {LARGEST_INTEGER}" if whole else f"within ±{LARGEST_FLOAT:.3g}")
        elif all(map(inside, numbers)):
            right.append("so when rounded to float32")
        text = ",".join(str(number).removesuffix(".0") for number in numbers)
        raise UserError(f"{name}={text} is out of range: {each} must be {' and '.join(right)}")

    def _bounds(self, others: Mapping[str, Any]) -> list["_End"]:
        """The bounds that are given; one that names a field counts if ``others`` has it."""
        ends = {
            "above": (operator.gt, self.above),
            "at least": (operator.ge, self.at_least),
            "below": (operator.lt, self.below),
            "at most": (operator.le, self.at_most),
        }
        found = []
        for words, (holds, bound) in ends.items():
            if isinstance(bound, str):
                if bound in others:
                    found.append(_End(holds, others[bound], f"{words} {bound} ({others[bound]:g})"))
            elif bound is not None:
                found.append(_End(holds, bound, f"{words} {bound:g}"))
        return found


class _End(NamedTuple):
    """One bound: whether ``holds(number, value)``, and how it is said."""

    holds: Callable[[float, float], bool]
    value: float
    words: str


def check_fields(values: Any) -> None:
    """That every field of a dataclass is of the kind of its default, one of its choices, and within its range.

    Both stand in the field's metadata, as ``choices`` and ``range``; a field whose default a factory makes is left to
    its owner. A tuple holds integers; only where the default is empty may it be empty, and only where the default is
    infinite may a number be.

    Raises:
      UserError: for the first field that is not.
    """
    fields = [field for field in dataclasses.fields(values) if field.default is not dataclasses.MISSING]
    for field in fields:
        name, value, default = field.name, getattr(values, field.name), cast(Any, field.default)
        if not _is_kind(value, default):
            raise UserError(f"{name}={value} is not {KINDS.get(type(default), 'a name')}")
        choices = field.metadata.get("choices", ())
        if choices and value not in choices:
            raise unknown_name(name, value, choices)
        if isinstance(default, tuple) and default and not value:
            raise UserError(f"{name} is empty; name at least one size, such as {name}=256,256")
    for others in (NO_OTHERS, vars(values)):  # each on its own first: the one at fault is named
        for field in fields:
            default = cast(Any, field.default)
            whole = not isinstance(default, float)
            limits = field.metadata.get("range", Range())
            if limits != Range():
                finite = whole or math.isfinite(default)
                limits.check(field.name, getattr(values, field.name), others, whole, finite)


KINDS = {bool: "true or false", int: "an integer", float: "a number", tuple: "integers such as 256,256"}
"""What the values of a field are called, by the type of its default."""


def _is_kind(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_is_kind(each, 0) for each in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int):
        return isinstance(value, int | np.integer)
    if isinstance(default, float):
        return isinstance(value, int | float | np.integer | np.floating)
    return isinstance(value, type(default))


def _held(number: float, whole: bool = False) -> float:
    """A number as a program holds it; infinite where it cannot."""
    if whole:
        return int(number) if abs(number) <= LARGEST_INTEGER else math.copysign(math.inf, number)
    if isinstance(number, int | np.integer) and abs(number) > LARGEST_FLOAT:
        return math.copysign(math.inf, number)
    with np.errstate(over="ignore"):
        return float(np.float32(number))
