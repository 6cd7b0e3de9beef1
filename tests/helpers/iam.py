"""A judge of AWS policies, as far as those of infra/terraform go: explicit denials first, then what is allowed; everything else is refused.

Statements are those of a policy document: Effect, Action, Resource, Condition; `Allowed` asks as AWS would, with the keys of the request's context.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

Statement = Mapping[str, Any]


def many(value: Any) -> list[str]:
    """A value or a list of values, as a list."""
    return [str(found) for found in value] if isinstance(value, list | tuple) else [str(value)]


def is_allowed(statements: Sequence[Statement], action: str, resource: str, **context: str) -> bool:
    """Whether the statements allow an action on a resource; context keys have "__" for ":" and "_" for "-" or "/"."""
    keys = {name.replace("__", ":").lower(): value for name, value in context.items()}
    held = [statement for statement in statements if _holds(statement, action, resource, keys)]
    return any(found["Effect"] == "Allow" for found in held) and not any(found["Effect"] == "Deny" for found in held)


def is_denied(statements: Sequence[Statement], action: str, resource: str, **context: str) -> bool:
    """Whether a statement denies it explicitly, whoever else allows it."""
    keys = {name.replace("__", ":").lower(): value for name, value in context.items()}
    return any(found["Effect"] == "Deny" and _holds(found, action, resource, keys) for found in statements)


def _holds(statement: Statement, action: str, resource: str, keys: Mapping[str, str]) -> bool:
    if not any(fnmatchcase(action.lower(), pattern.lower()) for pattern in many(statement["Action"])):
        return False
    if not any(fnmatchcase(resource, pattern) for pattern in many(statement["Resource"])):
        return False
    tests = statement.get("Condition", {})
    return all(_meets(test, name, many(values), keys) for test, named in tests.items() for name, values in named.items())


def _meets(test: str, name: str, values: Sequence[str], keys: Mapping[str, str]) -> bool:
    found = keys.get(_plain(name))
    if test == "Null":
        return (found is None) == (values[0] == "true")
    if found is None:
        return test.endswith("IfExists") or "Not" in test
    kind = test.removesuffix("IfExists")
    if kind == "NumericLessThan":
        return any(float(found) < float(value) for value in values)
    if kind == "StringNotEquals":
        return found not in values
    match = {"StringLike": fnmatchcase, "ArnEquals": fnmatchcase, "StringEquals": str.__eq__, "Bool": str.__eq__}[kind]
    return any(match(found, value) for value in values)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace("/", "_")
