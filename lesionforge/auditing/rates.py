"""Shares of few images, and their ratios, with intervals."""

import math
from typing import Any

from lesionforge.auditing.fidelity_neighbours import Z, wilson


def share(count: int, total: int) -> dict[str, Any]:
    """{"count", "total", "estimate", "low", "high"} with Wilson's 95 % interval; None of nothing."""
    found = wilson(count / max(total, 1), total)
    return {"count": count, "total": total, "estimate": found.estimate, "low": found.low, "high": found.high}


def ratio(count: int, total: int, other_count: int, other_total: int) -> dict[str, Any]:
    """{"estimate", "low", "high"} of one share over another, with Katz's 95 % interval on the logarithm (1978).

    Half an image is added to every count (Walter 1975), so that a share of 0 has an interval too. But no estimate
    where a count is 0: it would be of the half images. All None where one of the totals is 0.
    """
    if total == 0 or other_total == 0:
        return {"estimate": None, "low": None, "high": None}
    a, n, b, m = count + 0.5, total + 0.5, other_count + 0.5, other_total + 0.5
    log_ratio, deviation = math.log((a / n) / (b / m)), math.sqrt(1 / a - 1 / n + 1 / b - 1 / m)
    low, high = math.exp(log_ratio - Z * deviation), math.exp(log_ratio + Z * deviation)
    return {"estimate": math.exp(log_ratio) if count and other_count else None, "low": low, "high": high}
