"""The rules of an operation, compiled into a tree that is walked beside the values.

Of the rules in the file a name counts before `{}`, `{}` before `*`, and one at any depth (`$..name`) counts besides;
what was learnt counts besides all of them. Below a part everything counts that fits the path to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

from gateway.core.compare.names import ANY, DATA, ITEMS, is_data_name
from gateway.core.compare.rules import DEEP, ComparisonRules, Relax, Rule, rule_of, split_path


class _Node:
    """What the paths say that lead here: nothing is put together yet."""

    __slots__ = ("declared", "is_deep", "items", "learnt", "members")

    def __init__(self, *, is_deep: bool = False) -> None:
        self.declared: Rule | None = None
        self.learnt: Rule | None = None
        self.members: dict[str, _Node] = {}
        self.items: _Node | None = None
        self.is_deep = is_deep


class Place:
    """A part of the values, with all that counts for it.

    Attributes:
        rule: Of the part itself, or None.
    """

    __slots__ = ("_has_data", "_items", "_known", "_members", "_nodes", "_tree", "rule")

    def __init__(self, tree: RuleTree, nodes: tuple[_Node, ...]) -> None:
        self._tree = tree
        self._nodes = nodes
        self._known = {name for node in (*nodes, tree.deep) for name in node.members} - {ANY, DATA}
        self._has_data = any(DATA in node.members for node in (*nodes, tree.deep))
        self._members: dict[str, Place | None] = {}
        self._items: Place | None = None
        self.rule = _rule(nodes)

    def member(self, name: str) -> Place | None:
        """What counts for a member; None: nothing, nor for anything below it."""
        if name not in self._known:
            # All others of a kind are one place: as many are remembered as the rules name.
            name = DATA if self._has_data and is_data_name(name) else ANY
        if name not in self._members:
            self._members[name] = self._tree.place(self._below(name))
        return self._members[name]

    @property
    def items(self) -> Place | None:
        """What counts for an array's items; None: nothing, nor for anything below them."""
        if self._items is None:
            self._items = self._tree.place(tuple(node.items for node in self._nodes if node.items is not None))
        return self._items

    def _below(self, name: str) -> tuple[_Node, ...]:
        steps = [name, DATA, ANY] if name not in (ANY, DATA) and is_data_name(name) else [name, ANY]
        nodes = (*self._nodes, self._tree.deep)
        found = [node.members[step] for node in nodes for step in steps if step in node.members]
        return tuple(dict.fromkeys(found))


class RuleTree:
    """All rules of an operation.

    Attributes:
        deep: What counts at any depth.
    """

    __slots__ = ("_places", "_top", "deep")

    def __init__(self) -> None:
        self._top = _Node()
        self.deep = _Node(is_deep=True)
        self._places: dict[tuple[_Node, ...], Place] = {}

    @classmethod
    def of(cls, rules: ComparisonRules) -> Self:
        """Compiles rules."""
        tree = cls()
        for path, rule in rules.by_path.items():
            node = tree._node(split_path(path))
            node.declared = rule
        tree._learn(rules.relaxed)
        return tree

    @classmethod
    def of_learnt(cls, relaxed: Mapping[str, Relax]) -> Self:
        """Compiles relaxations alone."""
        tree = cls()
        tree._learn(relaxed)
        return tree

    @property
    def root(self) -> Place | None:
        """Of the whole value; None: there are no rules."""
        return self.place((self._top,)) if self._has_any() else None

    def at(self, path: str) -> Rule | None:
        """What counts for the part that a difference names.

        Raises:
            PathError: It names none.
        """
        place = self.root
        for step in split_path(path):
            if place is None:
                return None
            place = place.items if step == ITEMS else place.member(step)
        return None if place is None else place.rule

    def place(self, nodes: tuple[_Node, ...]) -> Place | None:
        """For `Place` alone: what counts where these paths lead."""
        if not nodes and not self.deep.members:
            return None
        found = self._places.get(nodes)
        if found is None:
            found = self._places[nodes] = Place(self, nodes)
        return found

    def _has_any(self) -> bool:
        top = self._top
        return bool(top.members or top.items or top.declared or top.learnt or self.deep.members)

    def _learn(self, relaxed: Mapping[str, Relax]) -> None:
        for path, relax in relaxed.items():
            node = self._node(split_path(path))
            node.learnt = _both(node.learnt, rule_of(relax))

    def _node(self, steps: Iterable[str]) -> _Node:
        node = self._top
        for step in steps:
            if step == ITEMS:
                node.items = node.items or _Node()
                node = node.items
            elif step.startswith(DEEP):
                node = self.deep.members.setdefault(step.removeprefix(DEEP), _Node(is_deep=True))
            else:
                node = node.members.setdefault(step, _Node())
        return node


def _rule(nodes: Iterable[_Node]) -> Rule | None:
    nodes = list(nodes)
    said = [node.declared for node in nodes if node.declared is not None and not node.is_deep][:1]
    deep = [node.declared for node in nodes if node.declared is not None and node.is_deep][:1]
    learnt = [node.learnt for node in nodes if node.learnt is not None]
    found: Rule | None = None
    # Where two name a value for the same, the one that stands later here counts.
    for rule in (*learnt, *deep, *said):
        found = _both(found, rule)
    return found


def _both(one: Rule | None, other: Rule) -> Rule:
    return other if one is None else one.joined(other)
