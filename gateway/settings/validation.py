"""Holds data against a pydantic model and tells every fault in the words of `problems`.

A part that cannot be read is cut out and the rest goes on to the checks of meaning, so that one run shows everything.
It must not know which files exist.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Final, Generic, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from gateway.settings.problems import KeyPath, did_you_mean, show_value

_ROUNDS: Final = 8
"""Cutting a part out can leave its parent incomplete; no file is nested deeper than this."""

ModelT = TypeVar("ModelT", bound=BaseModel)


class Shape(BaseModel):
    """Base of everything that is read: unknown keys refused, no value converted from another type."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        # Values can be secrets (a password in a URL) and these errors can reach a log by way of a traceback.
        hide_input_in_errors=True,
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """Something at `path` does not fit the model."""

    path: KeyPath
    message: str


@dataclass(frozen=True, slots=True)
class Validated(Generic[ModelT]):
    """What could be read.

    Attributes:
        value: The model, without the parts that are faulty; None when too little was left.
        faults: Everything that does not fit.
    """

    value: ModelT | None
    faults: tuple[Fault, ...]


def validate(
    model: type[ModelT], data: Mapping[str, object], stand_ins: Mapping[str, object] | None = None
) -> Validated[ModelT]:
    """Reads `data` as `model`.

    Args:
        model: What it should be.
        data: Plain data; not changed.
        stand_ins: Top-level values that take the place of required parts which had to be cut out.
    """
    rest = copy.deepcopy(dict(data))
    faults: tuple[Fault, ...] = ()
    for _ in range(_ROUNDS):
        try:
            return Validated(model.model_validate(rest), faults)
        except ValidationError as exc:
            errors = exc.errors(include_url=False)
        # What later rounds find is only what the cuts of the first one left behind.
        faults = faults or tuple(Fault(error["loc"], _message(model, error)) for error in errors)
        for error in errors:
            _cut(rest, _existing_part(error["loc"], rest))
        rest = {**(stand_ins or {}), **rest}
    return Validated(None, faults)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A single value of a model.

    Attributes:
        path: Its key path.
        kind: Its type, without `Annotated` and `| None`.
    """

    path: KeyPath
    kind: object


def leaves_of(model: type[BaseModel], path: KeyPath = ()) -> Iterator[Leaf]:
    """The single values of a model and of the models inside it."""
    for name, field in model.model_fields.items():
        here: KeyPath = (*path, field.alias or name)
        kind = _bare_type(field.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves_of(kind, here)
        else:
            yield Leaf(here, kind)


def known_keys(model: type[BaseModel]) -> list[str]:
    """The keys of a model as they are written in a file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _existing_part(path: KeyPath, data: object) -> KeyPath:
    """The beginning of `path` that exists in the data."""
    for depth, part in enumerate(path):
        if not _holds(data, part):
            return path[:depth]
        data = data[part]  # type: ignore[index] # _holds has looked
    return path


def _holds(data: object, part: str | int) -> bool:
    if isinstance(data, list):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, dict) and part in data


def _cut(data: object, path: KeyPath) -> None:
    """Removes what stands at `path`; of a list the whole, since half a list means something else."""
    target: dict[object, object] | None = None
    key: str | int = ""
    for part in path:
        if not _holds(data, part):
            return  # an earlier cut took it along
        if isinstance(data, dict):
            target, key = data, part
        data = data[part]  # type: ignore[index] # _holds has looked
    if target is not None:
        del target[key]


def _message(model: type[BaseModel], error: ErrorDetails) -> str:
    given, context = error["input"], error.get("ctx", {})
    shown = show_value(given)
    match error["type"]:
        case "extra_forbidden":
            return f"is not known here; {did_you_mean(str(error['loc'][-1]), _keys_at(model, error['loc'][:-1]))}"
        case "missing":
            return "is missing; write it"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"must be a mapping (key: value), not {shown}"
        case "list_type" | "tuple_type":
            return f"must be a list, not {shown}; write [{_bare(given)}]"
        case "string_type":
            remedy = f'; write "{_bare(given)}" in quotes' if isinstance(given, int | float) else ""
            return f"must be text, not {shown}{remedy}"
        case "bool_type":
            return f"must be true or false, not {shown}"
        case "int_type" | "int_from_float":
            return f"must be a whole number, not {shown}{_unquoted(given)}"
        case "float_type":
            return f"must be a number, not {shown}{_unquoted(given)}"
        case "finite_number":
            return f"must be a finite number, not {shown}"
        case "enum" | "literal_error":
            known = [choice.strip("' ") for choice in context["expected"].replace(" or ", ", ").split(", ")]
            return f"must be one of {', '.join(known)}, not {shown}{_nearest(given, known)}"
        case "value_error":
            return str(context["error"])
        case _:
            message = error["msg"].replace("Input should", "must", 1)
            return f"{message[:1].lower()}{message[1:]}, not {shown}"


def _bare(given: object) -> str:
    if isinstance(given, bool):
        return str(given).lower()
    return str(given) if isinstance(given, str | int | float) else "…"


def _unquoted(given: object) -> str:
    return "; write it without quotes" if isinstance(given, str) and given.strip("+-.0123456789") == "" else ""


def _nearest(given: object, known: Sequence[str]) -> str:
    if isinstance(given, bool):
        # Tools that read YAML 1.1 turn `off` into this.
        return "; write off" if given is False and "off" in known else ""
    hint = did_you_mean(given, known) if isinstance(given, str) else ""
    return f"; {hint}" if hint.startswith("did") else ""


def _keys_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that a model knows at `path`."""
    kind: object = model
    for part in path:
        kind = _bare_type(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = {field.alias or name: field for name, field in kind.model_fields.items()}
            kind = fields[str(part)].annotation
        else:
            kind = get_args(kind)[-1]
    kind = _bare_type(kind)
    return known_keys(kind) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _bare_type(kind: object) -> object:
    """A type without `Annotated` and without `| None`."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        else:
            kind = next(choice for choice in get_args(kind) if choice is not NoneType)
    return kind
