"""The best that can be said of many releases of which only (epsilon, delta) is known."""

from __future__ import annotations

import math


def optimal_delta(epsilon: float, delta: float, count: int, total: float) -> float:
    """The exact delta at epsilon `total` of the worst `count` releases at (epsilon, delta).

    Each of them says one of two things, with odds of exp(epsilon) for the truth, and with
    probability delta everything (Kairouz, Oh & Viswanath, 2015, theorem 3.3), counted one by one.
    """
    beyond = 0.0
    for truths in range(count + 1):
        loss = (2 * truths - count) * epsilon
        if loss > total:
            log_odds = truths * epsilon - count * math.log1p(math.exp(epsilon))
            log_ways = math.lgamma(count + 1) - math.lgamma(truths + 1)
            log_ways -= math.lgamma(count - truths + 1)
            beyond += math.exp(log_ways + log_odds) * -math.expm1(total - loss)
    return 1 - (1 - delta) ** count * (1 - beyond)
