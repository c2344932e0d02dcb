"""Wall-clock time, as everything that is written says it."""

import datetime

_UNITS = (("days", 86400), ("h", 3600), ("min", 60))


def utc_now() -> str:
    """This moment, to the second: ``2026-01-31T09:05:00Z``."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(seconds: float) -> str:
    """``0.3 s``, ``50 s``, ``2.5 min``, ``1.6 h``, ``3.4 days``."""
    for unit, length in _UNITS:
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"
