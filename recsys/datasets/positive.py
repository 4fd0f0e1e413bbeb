"""The rule that makes an event positive: a comparison of its value with a number, such as `value >= 4`."""

import re

import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import UserError

_RULE = re.compile(r"^\s*(?:value\s*)?(>=|<=|==|!=|>|<)\s*(-?\d+(?:\.\d+)?)\s*$")
_COMPARE = {
    ">=": pc.greater_equal,
    "<=": pc.less_equal,
    "==": pc.equal,
    "!=": pc.not_equal,
    ">": pc.greater,
    "<": pc.less,
}


def parse_rule(rule: str) -> tuple[str, float]:
    """The comparison and the number of a rule; raises UserError where it is not one."""
    match = _RULE.match(rule)
    if match is None:
        raise UserError(f"data.positive: '{rule}' is not a rule; expected a comparison such as 'value >= 4'.")
    return match.group(1), float(match.group(2))


def positive_mask(value: pa.Array, rule: str) -> pa.Array:
    """Which events are positive: `[rows] bool` for `[rows]` numeric values; a missing value is not positive."""
    compare, number = parse_rule(rule)
    return pc.fill_null(_COMPARE[compare](pc.cast(value, pa.float64()), number), False)
