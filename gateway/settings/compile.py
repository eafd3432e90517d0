"""Compiles the shape of a migration file into core's frozen definition and the policy that the file wishes.

Owns the meaning of the parts together: who belongs to which group, what collides with what. Everything wrong is
reported to `Findings`; what comes back is usable only when it holds no error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar

from gateway.core.compare.rules import ComparisonRules, Rule, split_path
from gateway.core.file_policy import FilePolicy
from gateway.core.kills import scope_exists
from gateway.core.mirroring import read_copy_fields
from gateway.core.model import (
    SERVER_ERRORS,
    Deadlines,
    DefaultRoute,
    Definition,
    Group,
    HealthProbe,
    IncidentRules,
    Instance,
    KeyRecipe,
    Operation,
    Ppm,
    RestMatch,
    Scope,
    Secrets,
    Side,
    SideDefinition,
    Thresholds,
    Writes,
)
from gateway.core.percent import format_percent
from gateway.settings.addresses import (
    BUNDLED_PREFIX,
    is_placeholder,
    parse_host_field,
    parse_instance,
    parse_network,
)
from gateway.settings.collisions import check_collisions, check_groups, check_names
from gateway.settings.digest import digest_of
from gateway.settings.findings import Findings
from gateway.settings.key_sources import parse_source
from gateway.settings.migration_file import (
    CompareShape,
    DeadlinesShape,
    DefaultShape,
    MigrationShape,
    OperationShape,
    PartShape,
    SideShape,
)
from gateway.settings.notifications import notice_targets
from gateway.settings.policy_rules import wished_policy
from gateway.settings.problems import KeyPath
from gateway.settings.routes import parse_path, parse_rest

_HEADER_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_FAILURE_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a file leaves to whoever loads it.

    Attributes:
        bundled: Addresses of the bundled services that run, by service name (`approach1`); a service that is not named
            stays a placeholder.
        deadlines: For the phases that the file does not set.
    """

    bundled: Mapping[str, tuple[Instance, ...]] = field(default_factory=dict)
    deadlines: Deadlines = field(default_factory=Deadlines)


def compile_migration(shape: MigrationShape, findings: Findings, around: Surroundings) -> tuple[Definition, FilePolicy]:
    """Compiles a file; whether the result can be used is asked of `findings` afterwards."""
    check_names(shape, findings)
    check_groups(shape, findings)
    secrets = _secrets(shape.secrets, ("secrets",), findings)
    operations = {
        name: replace(
            _operation(name, operation, _group_name(name, operation, shape), findings, around),
            secrets=_secrets(operation.secrets, ("operations", name, "secrets"), findings) or secrets or Secrets(),
        )
        for name, operation in shape.operations.items()
    }
    groups = _groups(shape, operations, findings)
    definition = Definition(
        migration=shape.migration,
        mcp_path=_try(parse_path, shape.mcp.path, ("mcp", "path"), findings) if shape.mcp else None,
        mcp_stateless=shape.mcp.stateless if shape.mcp else True,
        sides={
            Side.OLD: _side(Side.OLD, shape.sides.old, findings, around),
            Side.NEW: _side(Side.NEW, shape.sides.new, findings, around),
        },
        groups=groups,
        operations=operations,
        default=_default(shape.default, findings, around),
        deny_paths=_each(_deny_path, shape.deny_paths, ("deny_paths",), findings),
        trusted_proxies=_each(parse_network, shape.trusted_proxies, ("trusted_proxies",), findings),
        thresholds=Thresholds(**shape.thresholds.model_dump()),
        incidents=IncidentRules(**shape.incidents.model_dump()) if shape.incidents is not None else None,
        drill_every_s=_duration_s(shape.drills.every, ("drills", "every"), findings) if shape.drills else None,
        notifications=notice_targets(shape.notifications, findings),
        steps=_steps(shape.steps_percent, findings),
    )
    _check_incidents(definition, findings)
    check_collisions(shape, definition, findings)
    policy = wished_policy(definition, shape, findings)
    return replace(definition, digest=digest_of(definition)), policy


def _duration_s(text: str, path: KeyPath, findings: Findings) -> float | None:
    seconds = int(text[:-1]) * _SECONDS[text[-1]]
    if not seconds:
        findings.error(path, "must be longer than nothing; write such as 7d")
    return float(seconds)


def _check_incidents(definition: Definition, findings: Findings) -> None:
    if definition.incidents is None:
        return
    path: KeyPath = ("incidents", "scope")
    scope = _try(Scope.parse, definition.incidents.scope, path, findings)
    if scope is not None and not scope_exists(definition, scope):
        findings.error(path, f"there is nothing named {scope}; write all, group:NAME or operation:NAME")


def _try(parse: Callable[[str], ValueT], text: str, path: KeyPath, findings: Findings) -> ValueT | None:
    try:
        return parse(text)
    except ValueError as exc:
        findings.error(path, str(exc))
        return None


def _each(
    parse: Callable[[str], ValueT], texts: Iterable[str], path: KeyPath, findings: Findings
) -> tuple[ValueT, ...]:
    """Parses a list; what cannot be parsed or stands twice is reported and left out."""
    found: list[ValueT] = []
    for index, text in enumerate(texts):
        value = _try(parse, text, (*path, index), findings)
        if value is None:
            continue
        if value in found:
            findings.error((*path, index), f"{text} stands in this list already; remove one")
        else:
            found.append(value)
    return tuple(found)


def _deny_path(text: str) -> str:
    if parse_path(text) == "/":
        raise ValueError("denies every path; write the prefixes that are not for clients")
    return text


def _side(side: Side, shape: SideShape, findings: Findings, around: Surroundings) -> SideDefinition:
    here: KeyPath = ("sides", str(side))
    instances: list[Instance] = []
    for instance in _each(parse_instance, shape.instances, (*here, "instances"), findings):
        resolved = around.bundled.get(instance.name.removeprefix(BUNDLED_PREFIX)) if is_placeholder(instance) else None
        instances += resolved or (instance,)
    if not shape.instances:
        findings.error((*here, "instances"), "is empty; write at least one instance, such as http://127.0.0.1:9001")
    if shape.ca_file is not None and not any(instance.tls for instance in instances):
        findings.warn((*here, "ca_file"), "has no effect: no instance of this side is https://")
    _check_copy_fields(shape.mirror_headers_file, (*here, "mirror_headers_file"), findings)
    return SideDefinition(
        side=side,
        instances=tuple(instances),
        balance=shape.balance,
        host=_try(parse_host_field, shape.host, (*here, "host"), findings) if shape.host is not None else None,
        ca_file=shape.ca_file,
        health=_health(shape, (*here, "health"), findings),
        # What ships with the gateway is of the same house.
        is_trusted=shape.trusted if shape.trusted is not None else _is_bundled(shape),
        mirror_headers_file=shape.mirror_headers_file,
    )


def _check_copy_fields(file: str | None, path: KeyPath, findings: Findings) -> None:
    """A worker reads the file at its start, and would find out too late."""
    if file is None:
        return
    try:
        read_copy_fields(Path(file).read_text(encoding="utf-8"))
    except OSError as exc:
        findings.error(path, f"{file} cannot be read: {exc.strerror}")
    except ValueError as exc:
        findings.error(path, f"{file}: {exc}")


def _is_bundled(shape: SideShape) -> bool:
    return all(instance.startswith(BUNDLED_PREFIX) for instance in shape.instances)


def _health(shape: SideShape, path: KeyPath, findings: Findings) -> HealthProbe | None:
    if shape.health is None:
        return None
    probed = _try(parse_path, shape.health.path, (*path, "path"), findings)
    return HealthProbe(probed or "/", shape.health.interval_s)


def _group_name(name: str, operation: OperationShape, shape: MigrationShape) -> str:
    return operation.group if operation.group is not None and operation.group in shape.groups else name


def _operation(name: str, shape: OperationShape, group: str, findings: Findings, around: Surroundings) -> Operation:
    here: KeyPath = ("operations", name)
    if not shape.match.rest and shape.match.mcp is None:
        findings.contradiction((*here, "match"), 'matches nothing; write rest: "POST /path", mcp: tool_name, or both')
    return Operation(
        name=name,
        op_class=shape.op_class,
        group=group,
        rest=_rest(shape, here, findings),
        mcp=shape.match.mcp,
        deadlines=_deadlines(shape.deadline_s, shape.deadlines, here, findings, around),
        body_limit_bytes=shape.body_limit,
        strict=shape.strict,
        safety_net=shape.safety_net,
        failure_codes=frozenset(_each(_failure_code, shape.failure_codes, (*here, "failure_codes"), findings)),
        failure_statuses=SERVER_ERRORS if shape.failure_statuses is None else frozenset(shape.failure_statuses),
        comparison=_comparison(shape.compare, (*here, "compare"), findings),
    )


def _secrets(said: list[str] | None, here: KeyPath, findings: Findings) -> Secrets | None:
    """What a list of the file names; None where it says nothing."""
    if said is None:
        return None
    found = _each(_secret, said, here, findings)
    return Secrets(
        headers=frozenset(name for kind, name in found if kind == "header"),
        arguments=frozenset(name for kind, name in found if kind == "argument"),
        is_declared=True,
    )


def _secret(text: str) -> tuple[str, str]:
    kind, _, name = text.partition(":")
    if kind == "header":
        return kind, _header_name(name)
    if kind != "argument" or not name or not name.isprintable():
        raise ValueError(f'"{text}" is no secret; write argument:NAME or header:NAME')
    return kind, name


def _comparison(shape: CompareShape, here: KeyPath, findings: Findings) -> ComparisonRules:
    rules: dict[str, Rule] = {}
    for path, part in shape.parts.items():
        if _try(split_path, path, (*here, "parts", path), findings) is None:
            continue
        said = {**part.model_dump(), "normalise": tuple(part.normalise or ())}
        for name in ("abs_tolerance", "rel_tolerance"):
            # As text: a binary fraction is not the number that the file names.
            said[name] = None if said[name] is None else repr(said[name])
        rules[path] = Rule(**said)
        _check_part(part, (*here, "parts", path), findings)
    return ComparisonRules(
        by_path=rules,
        headers=_each(_header_name, shape.headers, (*here, "headers"), findings),
        equal_statuses=tuple(frozenset(group) for group in shape.equal_statuses),
        incomparable_codes=frozenset(
            _each(_failure_code, shape.incomparable_codes, (*here, "incomparable_codes"), findings)
        ),
        loose_numbers=shape.loose_numbers,
        is_comparable=shape.comparable,
    )


def _check_part(part: PartShape, here: KeyPath, findings: Findings) -> None:
    if part.unordered and part.keyed is not None:
        findings.contradiction(here, "is unordered and keyed; write one of them")
    if part.form is None:
        return
    bounds = {"abs_tolerance": part.abs_tolerance, "rel_tolerance": part.rel_tolerance, "within_s": part.within_s}
    for name, bound in {**bounds, "normalise": part.normalise}.items():
        if bound is not None:
            findings.contradiction(
                (*here, name), f"has no effect: form: {part.form} lets every value of that form pass; write one of them"
            )


def _header_name(text: str) -> str:
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError(f'"{text}" is no header name; write it in lower case, such as content-type')
    return text


def _rest(shape: OperationShape, here: KeyPath, findings: Findings) -> tuple[RestMatch, ...]:
    return _each(parse_rest, shape.match.rest, (*here, "match", "rest"), findings)


def _failure_code(text: str) -> str:
    if not _FAILURE_CODE.fullmatch(text):
        raise ValueError(f'"{text}" is no problem code; write lower-case letters, digits and _')
    return text


def _default(shape: DefaultShape, findings: Findings, around: Surroundings) -> DefaultRoute:
    return DefaultRoute(
        op_class=shape.op_class,
        side=shape.side,
        deadlines=_deadlines(shape.deadline_s, shape.deadlines, ("default",), findings, around),
        body_limit_bytes=shape.body_limit,
    )


def _deadlines(
    deadline_s: float | None, phases: DeadlinesShape, here: KeyPath, findings: Findings, around: Surroundings
) -> Deadlines:
    """`deadline_s` bounds the whole exchange and, unless `deadlines` says less, the wait for the first byte."""
    said = {phase: value for phase, value in phases.model_dump().items() if value is not None}
    total = deadline_s if deadline_s is not None else around.deadlines.total_s
    for phase, value in said.items():
        if total is not None and value > total:
            findings.contradiction(
                (*here, "deadlines", phase), f"{value:g} s exceeds the {total:g} s of the whole exchange; write less"
            )
    whole = {} if deadline_s is None else {"total_s": deadline_s, "first_byte_s": deadline_s}
    return replace(around.deadlines, **{**whole, **said})


def _steps(steps: list[Ppm], findings: Findings) -> tuple[Ppm, ...]:
    if not steps or steps[0] == 0 or any(a >= b for a, b in pairwise(steps)):
        shown = ", ".join(format_percent(step) for step in steps) or "nothing"
        findings.error(("steps_percent",), f"{shown} does not rise from above 0; write such as [1, 5, 25, 50, 100]")
    return tuple(steps)


def _groups(shape: MigrationShape, operations: Mapping[str, Operation], findings: Findings) -> dict[str, Group]:
    """The groups of the file, then one for each operation that names none."""
    groups: dict[str, Group] = {}
    for name, group in shape.groups.items():
        groups[name] = Group(
            name=name,
            writes=group.writes,
            recipes=_recipes(group.key, ("groups", name, "key"), findings),
            salt=f"{shape.migration}:{name}",
            operations=tuple(op.name for op in operations.values() if op.group == name),
            independent=group.independent,
        )
    for name, operation in shape.operations.items():
        if operations[name].group in groups:
            continue
        key = operation.key if operation.group is None else None
        # A group that does not exist is an error already; its stand-in has every stage, so as not to cause another.
        is_lost = operation.group is not None
        groups[name] = Group(
            name=name,
            writes=Writes.DUAL if is_lost else Writes.SHARED,
            recipes=_recipes(key, ("operations", name, "key"), findings) if key is not None else (),
            salt=f"{shape.migration}:{name}",
            operations=(name,),
            independent=is_lost,
            implicit=True,
        )
    return groups


def _recipes(key: list[list[str]], path: KeyPath, findings: Findings) -> tuple[KeyRecipe, ...]:
    if not key:
        findings.error(path, "is empty; write at least one list of sources, such as [[header:x-tenant-id]]")
    recipes: list[KeyRecipe] = []
    for index, sources in enumerate(key):
        recipe = _each(parse_source, sources, (*path, index), findings)
        if not sources:
            findings.error((*path, index), "is empty; write at least one source, or remove it")
        elif recipe and recipe in recipes:
            findings.error((*path, index), "stands in this key already; remove one")
        recipes.append(recipe)
    return tuple(recipes)
