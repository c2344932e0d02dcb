"""JSON objects as frozen dataclasses: each entry is checked against the type that its field declares."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from diffjax.errors import UserError
from diffjax.files import plain

_NOT_FINITE = ("nan", "inf", "-inf")  # as JSON holds these floats
_PLURALS = {int: "integers", float: "numbers", str: "texts"}
Record = TypeVar("Record")


def to_entries(record: Any) -> dict[str, Any]:
    """The fields of a dataclass as a JSON object, nested ones too; a field that has its default is left out."""
    found = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if value != _default(field):
            found[field.name] = _entry(value)
    return found


def _entry(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_entries(value)
    if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        return [to_entries(item) for item in value]
    return plain(value)


def from_entries(kind: type[Record], content: Mapping[str, Any], where: str, above: str = "") -> Record:
    """A dataclass from a JSON object; entries that it has no field for are passed over.

    ``where`` opens an error's line, ``above`` is the name of the entry that holds the object: ``"dataset."``.

    Raises:
      UserError: an entry is missing or of another type.
    """
    hints, values = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        name = above + field.name
        if field.name in content:
            values[field.name] = _checked(hints[field.name], content[field.name], where, name)
        elif _default(field) is dataclasses.MISSING:
            raise UserError(f"{where}: no entry {name!r}")
    return kind(**values)


def is_a(kind: type, value: Any) -> bool:
    """Whether a JSON value is of a type; true and false are no integers, and any number is a float."""
    if kind is float:
        return is_a(int, value) or isinstance(value, float) or value in _NOT_FINITE
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _checked(kind: Any, value: Any, where: str, name: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):  # of a type and None, which stands for an absent entry and is never written
        return _checked(arguments[0], value, where, name)
    if dataclasses.is_dataclass(kind):
        return from_entries(kind, _required(dict, value, where, name), where, f"{name}.")  # type: ignore[arg-type]
    if origin is tuple and dataclasses.is_dataclass(arguments[0]):
        items = enumerate(_required(list, value, where, name))
        return tuple(_checked(arguments[0], item, where, f"{name}[{number}]") for number, item in items)
    if origin is tuple:
        if not (isinstance(value, list) and all(is_a(arguments[0], item) for item in value)):
            raise UserError(f"{where}: {name} is {value!r}, not a list of {_PLURALS[arguments[0]]}")
        return tuple(map(arguments[0], value))
    if origin is not None:  # a mapping of texts
        entries = _required(dict, value, where, name)
        return {key: _checked(arguments[1], item, where, f"{name}.{key}") for key, item in entries.items()}
    return _required(kind, value, where, name)


def _required(kind: type, value: Any, where: str, name: str) -> Any:
    if not is_a(kind, value):
        raise UserError(f"{where}: {name} is {value!r}, not of type {kind.__name__}")
    return value
