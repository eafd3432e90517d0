"""What the parts of a migration do to each other: names, groups, requests, keys and instances that collide.

Owns the checks that need more than one entry of the file. It must not know stages and shares (`policy_rules`).
"""

from __future__ import annotations

import re
from typing import Final

from gateway.core.model import Definition, Group, KeyRecipe, KeySourceKind, OperationClass, Side
from gateway.core.paths import is_below
from gateway.settings.findings import Findings
from gateway.settings.migration_file import MigrationShape
from gateway.settings.problems import KeyPath, did_you_mean
from gateway.settings.routes import Route, can_match_path, is_denied, overlaps, parameters

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_RESERVED: Final = frozenset({"all", "default"})
"""`all` is a scope of kills, `default` the label of what no operation matches."""
_TOOL: Final = re.compile(r"[A-Za-z0-9_./-]{1,128}")


def check_names(shape: MigrationShape, findings: Findings) -> None:
    """Names are parts of salts, scopes and Redis keys, and one command takes either a group or an operation."""
    _check_name(shape.migration, ("migration",), findings)
    first: dict[str, KeyPath] = {}
    for section, name in [("groups", g) for g in shape.groups] + [("operations", op) for op in shape.operations]:
        path: KeyPath = (section, name)
        _check_name(name, path, findings)
        other = first.setdefault(name.lower(), path)
        if other != path:
            findings.error(
                path,
                f"has the name of {other[0]}.{other[1]} on line {findings.line(other)} (case does not count), and"
                " commands take either by name; give it a name of its own",
            )
    if not shape.operations:
        findings.contradiction(("operations",), "is empty; write at least one operation")


def check_groups(shape: MigrationShape, findings: Findings) -> None:
    """Every operation belongs to a group that exists, or to none; every group has operations."""
    used = set()
    for name, operation in shape.operations.items():
        here: KeyPath = ("operations", name)
        if operation.group is None:
            if operation.key is None:
                findings.warn(here, "has neither group nor key, so no percent can move it; write a key")
            continue
        used.add(operation.group)
        if operation.group not in shape.groups and findings.could_read(("groups", operation.group)):
            remedy = did_you_mean(operation.group, list(shape.groups))
            findings.error((*here, "group"), f'there is no group "{operation.group}"; {remedy}')
        if operation.key is not None:
            findings.error(
                (*here, "key"), f"belongs to the group: operations of {operation.group} share one key; remove it here"
            )
    for name in shape.groups:
        if name not in used and not findings.has_unread(("operations",)):
            findings.error(("groups", name), f"has no operations; write group: {name} at one, or remove the group")


def check_collisions(shape: MigrationShape, definition: Definition, findings: Findings) -> None:
    """Reports what collides in a compiled definition."""
    _check_sides(definition, findings)
    _check_tools(definition, findings, has_endpoint=shape.mcp is not None or findings.has_unread(("mcp",)))
    _check_routes(definition, findings)
    for group in definition.groups.values():
        _check_key(definition, group, findings)
    for operation in definition.operations.values():
        if operation.strict and operation.op_class is OperationClass.WRITE:
            findings.warn(("operations", operation.name, "strict"), "has no effect: it is for reads")


def _check_name(name: str, path: KeyPath, findings: Findings) -> None:
    if not _NAME.fullmatch(name):
        findings.error(path, f'"{name}" is no name; write 1-64 letters, digits, _ . -, a letter or digit first')
    elif name.lower() in _RESERVED:
        findings.error(path, f'"{name}" is reserved; write another name')


def _check_sides(definition: Definition, findings: Findings) -> None:
    old = {instance.name for instance in definition.sides[Side.OLD].instances}
    for instance in definition.sides[Side.NEW].instances:
        if instance.name in old:
            findings.error(
                ("sides", "new", "instances"),
                f"{instance.name} is an instance of old as well; the sides must be two services",
            )


def _check_tools(definition: Definition, findings: Findings, *, has_endpoint: bool) -> None:
    first: dict[str, str] = {}
    for operation in definition.operations.values():
        if operation.mcp is None:
            continue
        here: KeyPath = ("operations", operation.name, "match", "mcp")
        if not has_endpoint:
            findings.error(here, "needs the path of the MCP endpoint; write mcp: {path: /mcp} at the top of the file")
        if not _TOOL.fullmatch(operation.mcp):
            findings.error(here, f'"{operation.mcp}" is no tool name; write 1-128 letters, digits, _ - . /')
        other = first.setdefault(operation.mcp, operation.name)
        if other != operation.name:
            line = findings.line(("operations", other, "match", "mcp"))
            findings.error(here, f"{operation.mcp} is the tool of {other} on line {line} already; keep one of the two")


def _check_routes(definition: Definition, findings: Findings) -> None:
    routes = [Route(operation.name, rest) for operation in definition.operations.values() for rest in operation.rest]
    for route, first in overlaps(routes):
        line = findings.line(_place(first))
        findings.error(
            _place(route),
            f"{route.rest} and {first.rest} of {first.operation} on line {line} match the same request;"
            " make them differ in a segment that is text in both",
        )
    for route in routes:
        if definition.mcp_path is not None and can_match_path(route.rest, definition.mcp_path):
            findings.error(
                _place(route), f"{route.rest} matches the MCP path {definition.mcp_path}; remove one of them"
            )
        for denied in definition.deny_paths:
            if is_denied(route.rest, denied):
                findings.error(_place(route), f"{route.rest} can never be reached: deny_paths holds {denied}")
    for denied in definition.deny_paths:
        if definition.mcp_path is not None and is_below(definition.mcp_path, denied):
            findings.error(("mcp", "path"), f"can never be reached: deny_paths holds {denied}")


def _place(route: Route) -> KeyPath:
    return ("operations", route.operation, "match", "rest")


def _check_key(definition: Definition, group: Group, findings: Findings) -> None:
    """A source that a request cannot carry is a key that silently does not exist."""
    here: KeyPath = ("operations" if group.implicit else "groups", group.name, "key")
    for index, recipe in enumerate(group.recipes):
        for name in _path_sources(recipe):
            for member in group.operations:
                lacking = [r for r in definition.operations[member].rest if name not in parameters(r)]
                if lacking:
                    findings.error(
                        (*here, index), f"path:{name} is no parameter of {lacking[0]} of {member}; add it there"
                    )
    if group.recipes and all(_path_sources(recipe) for recipe in group.recipes):
        tools = [member for member in group.operations if definition.operations[member].mcp is not None]
        if tools:
            findings.warn(here, f"MCP calls of {tools[0]} have no path parameters, so no key; add a header")


def _path_sources(recipe: KeyRecipe) -> list[str]:
    return [source.name for source in recipe if source.kind is KeySourceKind.PATH]
