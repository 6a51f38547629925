"""Numbers and sentences as people read them; a privacy bound is always rounded up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from deniable.units import PrivacyCurve, Spent

ABSENT = "–"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def rounded_up(value: float | None, digits: int = 4) -> str:
    """A bound with `digits` significant digits, rounded up: print never understates it.

    >>> rounded_up(2.99979), rounded_up(0.01234567), rounded_up(12.3), rounded_up(math.inf)
    ('3.000', '0.01235', '12.30', '∞')
    """
    if value is None or math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "∞"
    exact = Decimal(f"{value:.12g}")  # sheds the dust of binary fractions: 0.1 stays 0.1
    rounded = Context(prec=digits, rounding=ROUND_CEILING).create_decimal(exact)
    places = max(0, digits - 1 - rounded.adjusted()) if rounded else digits - 1
    return f"{rounded:,.{places}f}" if 1e-4 <= rounded < 1e6 or not rounded else scientific(value)


def rounded_down(value: float | None, digits: int = 4) -> str:
    """A lower bound with `digits` significant digits, rounded down: print never overstates it.

    >>> rounded_down(1.7279), rounded_down(0.0), rounded_down(math.inf)
    ('1.727', '0', '∞')
    """
    if value is None or math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "∞"
    exact = Context(prec=digits, rounding=ROUND_FLOOR).create_decimal(Decimal(f"{value:.12g}"))
    return significant(float(exact), digits)


def scientific(value: float | None) -> str:
    """A small probability as people write it by hand.

    >>> scientific(1e-5), scientific(2.5e-6), scientific(None)
    ('10⁻⁵', '2.5 × 10⁻⁶', '–')
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return power if mantissa == "1" else f"{mantissa} × {power}"


def significant(value: float | None, digits: int = 4) -> str:
    """A number with `digits` significant digits.

    >>> significant(0.7280761), significant(1.7000001), significant(3510), significant(None)
    ('0.7281', '1.700', '3,510', '–')
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    if float(value).is_integer() and abs(value) < 1e12:
        return f"{value:,.0f}"
    return f"{value:#,.{digits}g}".rstrip(".")


def span(values: Iterable[float]) -> str:
    """Where numbers lie: from the least to the largest, or the one that all of them are.

    >>> span([1.1, 0.55]), span([256, 1024]), span([256])
    ('0.55 to 1.1', '256 to 1,024', '256')
    """
    ends = min(values := list(values)), max(values)
    return " to ".join(
        dict.fromkeys(f"{each:,}" if isinstance(each, int) else f"{each:.4g}" for each in ends)
    )


def percent(fraction: float | None, places: int = 1) -> str:
    """A fraction in percent.

    >>> percent(0.96412), percent(1.0), percent(None)
    ('96.4%', '100.0%', '–')
    """
    if fraction is None or not math.isfinite(fraction):
        return ABSENT
    return f"{100 * fraction:.{places}f}%"


def out_of_hundred(rate: float) -> str:
    """A rate as a count of a hundred people, rounded up to a tenth.

    >>> out_of_hundred(0.20086), out_of_hundred(1.0), out_of_hundred(0.001)
    ('20.1', '100', '0.1')
    """
    tenths = Decimal(f"{100 * rate:.12g}").quantize(Decimal("0.1"), rounding=ROUND_CEILING)
    return f"{tenths.normalize():f}"


def one_in(delta: float | None) -> str | None:
    """A probability as a chance, or None where that would not be a round way to say it.

    >>> one_in(1e-5)
    '1 in 100,000'
    """
    if delta is None or not (1e-12 <= delta < 1):
        return None
    return f"1 in {Decimal(f'{1 / delta:.3g}'):,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them.

    >>> duration(12.34), duration(754), duration(7325)
    ('12.3 s', '12 min 34 s', '2 h 2 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def meaning(guarantee: Spent | PrivacyCurve) -> tuple[str, str]:
    """What a guarantee means for a person in the data, for who has never met epsilon.

    >>> print(meaning(Spent(epsilon=3.0, delta=1e-5))[1])
    A test that wrongly names 1 in every 100 people who were not in the data can find at most 20.1 \
in every 100 who were; blind guessing finds 1.
    """
    rate = guarantee.attacker_true_positive_rate(0.01)
    if rate > 0.9:
        limit = (
            "This guarantee promises next to nothing: it hardly limits how well "
            "someone who studies this model can tell whether your example was in its training data."
        )
    else:
        limit = (
            "There is a limit on how well anyone who studies this model, by any method and with "
            "whatever else they know, can tell whether your example was in its training data."
        )
    figures = (
        "A test that wrongly names 1 in every 100 people who were not in the data can find at "
        f"most {out_of_hundred(rate)} in every 100 who were; blind guessing finds 1."
    )
    return limit, figures
