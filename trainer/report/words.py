"""From a value in results JSON to what is printed: any key may be missing, and then it reads "not measured"."""

import math
import re
from collections.abc import Mapping
from typing import Any

NOT_MEASURED = "not measured"
BANNER = "Research prototype, not cleared for clinical use"

FINDINGS = {"abnormal": "any abnormality"}
KINDS = {"ours": "trained here", "baseline": "trivial baseline", "published": "published elsewhere"}


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping, an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def rows_of(value: Any) -> list[Any]:
    """Return a list, an empty one for anything else."""
    return list(value) if isinstance(value, list | tuple) else []


def number(value: Any) -> float | None:
    """Return a finite number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def decimal(value: Any, places: int = 3) -> str:
    found = number(value)
    return NOT_MEASURED if found is None else f"{found:.{places}f}"


def count(value: Any) -> str:
    """Return a whole number with thousands set apart."""
    found = number(value)
    return NOT_MEASURED if found is None else f"{found:,.0f}"


def percent(value: Any, places: int = 1) -> str:
    found = number(value)
    return NOT_MEASURED if found is None else f"{100 * found:.{places}f} %"


def interval(value: Any) -> tuple[float, float] | None:
    """Return the limits of an estimate, None where it has none."""
    low, high = number(mapping(value).get("low")), number(mapping(value).get("high"))
    return None if low is None or high is None else (low, high)


def estimate(value: Any, places: int = 3) -> str:
    """Return an estimate as ``0.942 (0.921 to 0.960)``; a bare number counts as an estimate without interval."""
    found = number(mapping(value).get("value") if isinstance(value, Mapping) else value)
    if found is None:
        return NOT_MEASURED
    limits = interval(value)
    around = f" ({limits[0]:.{places}f} to {limits[1]:.{places}f})" if limits else ""
    return f"{found:.{places}f}{around}"


def value_of(value: Any) -> float | None:
    """Return the value of an estimate or a bare number."""
    return number(mapping(value).get("value") if isinstance(value, Mapping) else value)


def of_hundred(value: Any) -> int | None:
    """Return a proportion as "so many of 100", rounded; never 100 or 0 where the figure is not exactly that."""
    found = value_of(value)
    if found is None:
        return None
    if 0 < found < 1:
        return min(99, max(1, round(100 * found)))
    return round(100 * found)


def finding_name(finding: Any) -> str:
    text = str(finding or "the finding")
    return FINDINGS.get(text, text.replace("_", " "))


def plain(value: Any) -> str:
    """Return any JSON value as one line of text, for tables of settings."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    if value is None or value == "":
        return NOT_MEASURED if value is None else "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def p_value(value: Any) -> str:
    found = number(value)
    if found is None:
        return NOT_MEASURED
    return "< 0.001" if found < 0.001 else f"{found:.3f}"


def slug(text: str) -> str:
    """Return a name that is safe as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"
