"""When two plain values are equal: neither objects nor arrays, and under the rule for their part."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from gateway.core.compare.json_value import Json
from gateway.core.compare.rules import Rule
from gateway.core.compare.shapes import have_form, is_alike, normalised, time_of, type_of

_NUMBERS: Final = (int, Decimal)


def is_equal(left: Json, right: Json, rule: Rule | None, *, loose: bool) -> bool:
    """Whether two values pass as equal.

    Args:
        left: A value.
        right: Another; one of the two may hold others.
        rule: Of their part.
        loose: `1` equals `1.0`.
    """
    if left.__class__ is str and right.__class__ is str:
        return left == right or (rule is not None and _is_let_pass(left, right, rule))
    loose = loose or (rule is not None and rule.loose_number)
    if is_number(left) and is_number(right):
        if left == right and (loose or type(left) is type(right)):
            return True
        return rule is not None and _is_number_let_pass(left, right, rule, loose=loose)
    if type(left) is type(right) and left == right:
        return True
    return rule is not None and _is_let_pass(left, right, rule)


def is_same_type(left: Json, right: Json, rule: Rule | None, *, loose: bool) -> bool:
    """Whether two values are of one type; then they differ in value."""
    loose = loose or (rule is not None and rule.loose_number)
    return type_of(left) == type_of(right) or (loose and is_number(left) and is_number(right))


def is_number(value: object) -> bool:
    """Whether a value is a number of JSON."""
    return isinstance(value, _NUMBERS) and value.__class__ is not bool


def has_tolerance(rule: Rule) -> bool:
    """Whether numbers may be apart."""
    return rule.abs_tolerance is not None or rule.rel_tolerance is not None


def _is_number_let_pass(left: Json, right: Json, rule: Rule, *, loose: bool) -> bool:
    if rule.form == "number":
        return True
    if rule.shape and is_alike(left, right, loose=loose):
        return True
    # Who names a tolerance says that these are measures, and not of which kind.
    return has_tolerance(rule) and _is_near(left, right, rule)


def _is_let_pass(left: Json, right: Json, rule: Rule) -> bool:
    if rule.nullable and (left is None or right is None):
        return True
    if rule.form is not None and have_form(left, right, rule.form):
        return True
    if rule.shape and is_alike(left, right, rule.within_s):
        return True
    if left.__class__ is not str or right.__class__ is not str:
        return False
    if rule.normalise and normalised(left, rule.normalise) == normalised(right, rule.normalise):
        return True
    if rule.within_s is None:
        return False
    one, other = time_of(left), time_of(right)
    return one is not None and other is not None and abs(one - other) <= rule.within_s


def _is_near(left: Json, right: Json, rule: Rule) -> bool:
    one, other = Decimal(left), Decimal(right)
    allowed = Decimal(rule.abs_tolerance or 0)
    if rule.rel_tolerance is not None:
        allowed = max(allowed, Decimal(rule.rel_tolerance) * max(abs(one), abs(other)))
    return abs(one - other) <= allowed
