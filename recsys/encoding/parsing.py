"""Text and numbers of raw columns as typed arrays. What cannot be read becomes null and is reported by a mask."""

import pyarrow as pa
import pyarrow.compute as pc

LAST_TIME_MS = 1 << 42
"""Times are from 1970 to 2109; one outside is most likely in another unit than was said."""
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?)?"
_ZONE = r"(Z|[+-]\d{2}:?\d{2})$"
_UNITS_PER_MS = {"us": 1_000, "ns": 1_000_000}


def text_or_null(values: pa.Array) -> pa.Array:
    """Trimmed text; null where it is empty. A whole float is written as an integer, whatever the file's format."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    text = pc.utf8_trim_whitespace(values.cast(pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def parse_numbers(values: pa.Array) -> pa.Array:
    """float64; null where the value is missing or no number (NaN counts as missing)."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        numbers = values.cast(pa.float64())
    else:
        text = text_or_null(values)
        fits = pc.fill_null(pc.match_substring_regex(text, _NUMBER), False)
        numbers = pc.if_else(fits, text, pa.scalar(None, pa.string())).cast(pa.float64())
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))


def parse_times(values: pa.Array, unit: str) -> pa.Array:
    """int64 ms since 1970 UTC; null where missing, unreadable or outside 1970 to 2109.

    `unit` is s, ms, us, ns for numbers, or `iso` for text. Timestamp columns need no unit. Finer parts are cut off.
    """
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        times = values.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    elif unit == "iso":
        times = _parse_iso(text_or_null(values))
    elif pa.types.is_integer(values.type):
        times = _to_ms(values.cast(pa.int64()), unit)
    else:
        text = text_or_null(values)
        whole = pc.fill_null(pc.match_substring_regex(text, r"^-?\d{1,18}$"), False)
        integers = pc.if_else(whole, text, pa.scalar(None, pa.string())).cast(pa.int64())
        floats = parse_numbers(pc.if_else(whole, pa.scalar(None, pa.string()), text))
        per_ms = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}[unit]
        rounded = pc.round(pc.multiply(floats, per_ms))
        in_range = pc.fill_null(pc.and_(pc.greater_equal(rounded, 0), pc.less(rounded, LAST_TIME_MS)), False)
        fractions = pc.if_else(in_range, rounded, pa.scalar(None, pa.float64())).cast(pa.int64())
        times = pc.coalesce(_to_ms(integers, unit), fractions)
    sane = pc.and_(pc.greater_equal(times, 0), pc.less(times, LAST_TIME_MS))
    return pc.if_else(pc.fill_null(sane, False), times, pa.scalar(None, pa.int64()))


def _to_ms(times: pa.Array, unit: str) -> pa.Array:
    if unit == "s":
        small = pc.less(pc.abs(times), LAST_TIME_MS)
        return pc.multiply(pc.if_else(small, times, pa.scalar(None, pa.int64())), 1000)
    return times if unit == "ms" else pc.divide(times, _UNITS_PER_MS[unit])


def _parse_iso(text: pa.Array) -> pa.Array:
    none = pa.scalar(None, pa.string())
    dated = pc.fill_null(pc.match_substring_regex(text, _ISO), False)
    zoned = pc.and_(dated, pc.fill_null(pc.match_substring_regex(text, _ZONE), False))
    zoned = pc.and_(zoned, pc.greater(pc.fill_null(pc.utf8_length(text), 0), len("2000-01-01")))
    plain = _cast_rows(pc.if_else(pc.and_(dated, pc.invert(zoned)), text, none), pa.timestamp("ns"))
    with_zone = _cast_rows(pc.if_else(zoned, text, none), pa.timestamp("ns", "UTC"))
    return pc.divide(pc.coalesce(plain.cast(pa.int64()), with_zone.cast(pa.int64())), _UNITS_PER_MS["ns"])


def _cast_rows(text: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast at once; where some row is no such thing (a 13th month), halve until only that row is null."""
    try:
        return text.cast(kind)
    except pa.ArrowInvalid:
        if len(text) == 1:
            return pa.nulls(1, kind)
        middle = len(text) // 2
        return pa.concat_arrays([_cast_rows(text[:middle], kind), _cast_rows(text[middle:], kind)])
