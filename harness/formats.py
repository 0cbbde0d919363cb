"""Numbers as text: percent, intervals, p values, amounts. A hole stays a hole."""

from __future__ import annotations

import math

HOLE = "—"


def percent(value: float, signed: bool = False) -> str:
    if not math.isfinite(value):
        return HOLE
    tenths = round(value * 1000)
    sign = "−" if tenths < 0 else "+" if signed and tenths > 0 else ""
    return f"{sign}{abs(tenths) / 10:.1f}"


def bounds(low: float, high: float) -> str:
    return f"[{percent(low, True)}, {percent(high, True)}]" if math.isfinite(low + high) else HOLE


def interval(value: float, low: float, high: float, signed: bool = False) -> str:
    if not math.isfinite(value):
        return HOLE
    # an interval cut at its bounds, or an exact one, has no single half-width
    if abs((high - value) - (value - low)) < 1e-9:
        return f"{percent(value, signed)} ± {percent(high - value)}"
    return f"{percent(value, signed)} [{percent(low, signed)}, {percent(high, signed)}]"


def p_value(p: float) -> str:
    return HOLE if not math.isfinite(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def amount(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\u202f") if math.isfinite(value) else HOLE
