"""The expression language for one row at a time, in plain Python: what an endpoint answers with.

    compile_scalar(Expression.parse("hour(at, 'UTC')"), {"at": "timestamp"})({"at": 0}) == 0

transforms.py says what an expression means, with Arrow; one row costs it tens of microseconds for
each operation. Here an operation costs a fraction of one, under one rule: the same value as Arrow's
or none at all. What this module does not know for certain to agree on (a type at compile time, a
value at run time: a division by zero, an integer beyond 2^53, a letter outside ASCII) it does not
compute, and the caller goes back to Arrow. A property test holds the two side by side.

Values: None is null; a timestamp is microseconds since 1970 in UTC, a duration is microseconds.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rayapp.schemas.data import ColumnType
from rayapp.transforms import WORDS, Expression

ScalarType = Literal["string", "integer", "number", "boolean", "timestamp", "duration", "null"]
Row = Mapping[str, Any]
Compute = Callable[[Row], Any]

LARGEST_EXACT = 2**53
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
_LATEST_US = int(datetime(2037, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
"""Until here every time zone database lists its changes one by one; from here on it has rules."""
_US_PER_UNIT = {"days": 86_400_000_000, "hours": 3_600_000_000, "minutes": 60_000_000}
_US_PER_UNIT |= {"seconds": 1_000_000}
_COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_PARTS: dict[str, Callable[[datetime], int]] = {
    "hour": lambda at: at.hour,
    "minute_of_hour": lambda at: at.minute,
    "day_of_week": lambda at: at.weekday(),
    "day_of_year": lambda at: at.timetuple().tm_yday,
    "month": lambda at: at.month,
    "year": lambda at: at.year,
}


class UnsureError(Exception):
    """Arrow must compute this one."""


@dataclass(frozen=True)
class _Typed:
    type: ScalarType
    compute: Compute
    constant: Any = None
    is_constant: bool = False


def compile_scalar(expression: Expression, types: Mapping[str, ColumnType]) -> Compute:
    """A function from a row to the expression's value. Raises UnsureError, when compiled for an
    expression and when called for a row, where only Arrow is certain."""
    return _compile(expression.tree, types).compute


def _compile(node: ast.expr, types: Mapping[str, ColumnType]) -> _Typed:
    match node:
        case ast.Constant() | ast.Name():
            return _leaf(node, types)
        case ast.UnaryOp(op=ast.Not()):
            return _invert(_compile(node.operand, types))
        case ast.UnaryOp():
            return _negated(_number_only(_compile(node.operand, types)))
        case ast.BinOp():
            return _binary(node.op, _compile(node.left, types), _compile(node.right, types))
        case ast.BoolOp():
            return _kleene(node.op, [_compile(v, types) for v in node.values])
        case ast.Compare():
            sides = [_compile(v, types) for v in (node.left, *node.comparators)]
            pairs = zip(node.ops, sides, sides[1:], strict=False)
            return _kleene(ast.And(), [_compare(op, a, b) for op, a, b in pairs])
        case ast.Call(func=ast.Name(id=name)):
            return _call(name, [_compile(a, types) for a in node.args])
    raise UnsureError(ast.dump(node))


def _leaf(node: ast.Constant | ast.Name, types: Mapping[str, ColumnType]) -> _Typed:
    if isinstance(node, ast.Constant):
        return _constant(node.value)
    if node.id in WORDS:
        return _constant(WORDS[node.id])
    _require(node.id in types, node.id)
    return _Typed(types[node.id], operator.itemgetter(node.id))


def _constant(value: Any) -> _Typed:
    kinds: dict[type, ScalarType] = {
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
        type(None): "null",
    }
    if type(value) not in kinds:
        raise UnsureError(value)
    return _Typed(kinds[type(value)], lambda row: value, value, is_constant=True)


def _require(is_certain: bool, about: object = None) -> None:
    if not is_certain:
        raise UnsureError(about)


def _exact(value: int) -> int:
    """An integer that a double holds as well, so that no sum of two wraps around."""
    if -LARGEST_EXACT <= value <= LARGEST_EXACT:
        return value
    raise UnsureError(value)


def _lifted(kind: ScalarType, run: Callable[..., Any], *args: _Typed) -> _Typed:
    """`run` over the arguments' values; null where one of them is null."""
    if len(args) == 1:
        one = args[0].compute

        def of_one(row: Row) -> Any:
            value = one(row)
            return None if value is None else run(value)

        return _Typed(kind, of_one)
    parts = [arg.compute for arg in args]

    def of_all(row: Row) -> Any:
        values = [part(row) for part in parts]
        return None if None in values else run(*values)

    return _Typed(kind, of_all)


def _is_numeric(value: _Typed) -> bool:
    return value.type in ("integer", "number")


def _number_only(value: _Typed) -> _Typed:
    _require(_is_numeric(value), value.type)
    return value


def _as_number(value: _Typed) -> _Typed:
    """number(x): a duration in seconds."""
    if value.type == "number":
        return value
    if value.type == "duration":
        return _lifted("number", lambda us: us / 1e6, value)
    if value.type in ("integer", "boolean"):
        return _lifted("number", lambda x: float(_exact(x)), value)
    raise UnsureError(value.type)


_RESULTS: dict[tuple[type[ast.AST], ScalarType, ScalarType], ScalarType] = {
    (ast.Sub, "timestamp", "timestamp"): "duration",
    (ast.Sub, "timestamp", "duration"): "timestamp",
    (ast.Add, "timestamp", "duration"): "timestamp",
    (ast.Add, "duration", "timestamp"): "timestamp",
    (ast.Add, "duration", "duration"): "duration",
    (ast.Sub, "duration", "duration"): "duration",
}
_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def _binary(op: ast.AST, left: _Typed, right: _Typed) -> _Typed:
    if isinstance(op, ast.Div):
        return _lifted("number", _divide, _as_number(left), _as_number(right))
    run = _ARITHMETIC[type(op)]
    if left.type == right.type == "integer":
        return _lifted("integer", lambda a, b: _exact(run(_exact(a), _exact(b))), left, right)
    if _is_numeric(left) and _is_numeric(right):
        return _lifted("number", run, _as_number(left), _as_number(right))
    result = _RESULTS.get((type(op), left.type, right.type))
    _require(result is not None, (left.type, right.type))
    assert result is not None
    return _lifted(result, lambda a, b: _exact(run(a, b)), left, right)


def _negated(value: _Typed) -> _Typed:
    if value.is_constant:
        return _constant(-value.constant)
    return _binary(ast.Sub(), _constant(0), value)


def _divide(a: float, b: float) -> float:
    _require(b != 0)
    return a / b


def _compare(op: ast.AST, left: _Typed, right: _Typed) -> _Typed:
    if _is_numeric(left) and _is_numeric(right) and left.type != right.type:
        left, right = _as_number(left), _as_number(right)
    _require(left.type == right.type and left.type != "null", (left.type, right.type))
    return _lifted("boolean", _COMPARISONS[type(op)], left, right)


def _invert(value: _Typed) -> _Typed:
    _require(value.type == "boolean", value.type)
    return _lifted("boolean", operator.not_, value)


def _kleene(op: ast.AST, values: list[_Typed]) -> _Typed:
    """Three-valued: false decides an `and` and true an `or`, whatever else is null."""
    _require(all(v.type == "boolean" for v in values))
    if len(values) == 1:
        return values[0]
    decides = isinstance(op, ast.Or)
    parts = [v.compute for v in values]

    def run(row: Row) -> bool | None:
        found = [part(row) for part in parts]
        if decides in found:
            return decides
        return None if None in found else not decides

    return _Typed("boolean", run)


def _common(values: list[_Typed]) -> tuple[ScalarType, list[_Typed]]:
    """Values of which one is chosen, in the one type that the result has."""
    kinds = {v.type for v in values} - {"null"}
    if kinds == {"integer", "number"}:
        return "number", [v if v.type == "null" else _as_number(v) for v in values]
    _require(len(kinds) == 1, kinds)
    return kinds.pop(), values


def _call(name: str, args: list[_Typed]) -> _Typed:
    if name in _US_PER_UNIT:
        us = float(_US_PER_UNIT[name])
        return _lifted("duration", lambda x: _whole(x * us), _as_number(args[0]))
    if name in _PARTS:
        return _local(_PARTS[name], args[0], args[1])
    if name not in _CALLS:
        raise UnsureError(name)
    return _CALLS[name](args)


def _whole(x: float) -> int:
    _require(math.isfinite(x))
    return _exact(round(x))  # half to even, as Arrow rounds


def _finite(value: _Typed) -> _Typed:
    def run(x: float) -> float:
        _require(math.isfinite(x))
        return x

    return _lifted("number", run, value)


def _local(part: Callable[[datetime], int], at: _Typed, zone: _Typed) -> _Typed:
    _require(at.type == "timestamp" and zone.type == "string" and zone.is_constant)
    try:
        clock = ZoneInfo(zone.constant)
    except (ZoneInfoNotFoundError, ValueError):
        raise UnsureError(zone.constant) from None

    def run(us: int) -> int:
        _require(0 <= us < _LATEST_US)
        return part(_on_the_wall(us, clock))

    return _lifted("integer", run, at)


@lru_cache(maxsize=256)  # a row asks for the hour, the day and the month of one moment
def _on_the_wall(us: int, clock: ZoneInfo) -> datetime:
    return (EPOCH + us * MICROSECOND).astimezone(clock)


def _is_in(args: list[_Typed]) -> _Typed:
    value, known = args[0], args[1:]
    _require(value.type in ("string", "integer", "boolean"))
    _require(all(k.is_constant and k.type == value.type for k in known))
    allowed = frozenset(k.constant for k in known)
    return _lifted("boolean", allowed.__contains__, value)


def _if_else(args: list[_Typed]) -> _Typed:
    _require(args[0].type == "boolean")
    kind, (yes, no) = _common(args[1:])
    asked, then, other = args[0].compute, yes.compute, no.compute

    def run(row: Row) -> Any:
        # both sides, as Arrow does: a row that one of them cannot take is no row to answer here
        is_true, values = asked(row), (other(row), then(row))
        return None if is_true is None else values[is_true]

    return _Typed(kind, run)


def _coalesce(args: list[_Typed]) -> _Typed:
    kind, values = _common(args)
    parts = [v.compute for v in values]

    def run(row: Row) -> Any:
        found = [part(row) for part in parts]
        return next((value for value in found if value is not None), None)

    return _Typed(kind, run)


def _clip(args: list[_Typed]) -> _Typed:
    value, low, high = args
    _require(all(b.is_constant and _is_numeric(b) for b in (low, high)))
    bottom, top = float(low.constant), float(high.constant)
    return _lifted("number", lambda x: min(max(x, bottom), top), _finite(_as_number(value)))


def _concat(args: list[_Typed]) -> _Typed:
    return _lifted("string", lambda *parts: "".join(parts), *[_text([a]) for a in args])


def _text(args: list[_Typed]) -> _Typed:
    value = args[0]
    if value.type == "string":
        return value
    _require(value.type == "integer", value.type)
    return _lifted("string", str, value)


def _ascii_lower(text: str) -> str:
    _require(text.isascii())
    return text.lower()


def _log1p(x: float) -> float:
    _require(x > -1)
    return math.log1p(x)


def _of_string(kind: ScalarType, run: Callable[[str], Any], args: list[_Typed]) -> _Typed:
    _require(args[0].type == "string", args[0].type)
    return _lifted(kind, run, args[0])


_CALLS: dict[str, Callable[[list[_Typed]], _Typed]] = {
    "is_null": lambda args: _Typed("boolean", lambda row: args[0].compute(row) is None),
    "is_in": _is_in,
    "if_else": _if_else,
    "coalesce": _coalesce,
    "abs": lambda args: _lifted(args[0].type, abs, _number_only(args[0])),
    "floor": lambda args: _lifted(
        "number", lambda x: float(math.floor(x)), _finite(_as_number(args[0]))
    ),
    "log1p": lambda args: _lifted("number", _log1p, _finite(_as_number(args[0]))),
    "clip": _clip,
    "concat": _concat,
    "number": lambda args: _as_number(args[0]),
    "text": _text,
    "lower": lambda args: _of_string("string", _ascii_lower, args),
    "length": lambda args: _of_string("integer", len, args),
}
