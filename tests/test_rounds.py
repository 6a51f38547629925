"""The model of the time of a round finds what it was made of."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.collaborate_rounds import FITTED, TERMS, fit, most_rows, predictions, seconds_of

MADE_OF = dict(zip(TERMS, (1e-3, 2e-10, 3e-9, 5e-4, 7e-10, 2e-8, 2e-3), strict=True)) | {"k": 6.0}


def test_coefficients_are_found_again_from_rounds_that_follow_them() -> None:
    rows = []
    for name, (workers, batch, hidden, upload, sleep, bandwidth, latency) in FITTED.items():
        p = 71 * hidden + 10
        row = {
            "name": name, "workers": workers, "batch_size": batch, "upload": upload, "cores": 2,
            "sleep": sleep, "parameters": p, "bandwidth": bandwidth, "latency": latency,
            "bytes_up": workers * 4.0 * p * upload, "bytes_down": workers * 4.0 * p,
            "fitted": True,
        }  # fmt: skip
        rows.append(row | {"seconds": seconds_of(MADE_OF, row)})
    found = fit(rows)
    for row in rows:
        assert seconds_of(found, row) == pytest.approx(row["seconds"], rel=1e-3)
    assert found["k"] == pytest.approx(6.0, rel=1e-3)


def test_the_slowest_worker_draws_most() -> None:
    assert most_rows(100, 1) == pytest.approx(100)
    drawn = np.random.default_rng(0).poisson(25, (200_000, 4)).max(1).mean()
    assert most_rows(100, 4) == pytest.approx(drawn, rel=2e-3)  # about 6 standard errors


def test_more_workers_than_the_coordinator_can_feed_are_slower_than_one() -> None:
    slow = [each for each in predictions(MADE_OF) if each["network"] == "10 MB/s, 20 ms"]
    assert slow[0]["speedup"] == 1 and slow[-1]["speedup"] < 1
    assert slow[-1]["largest"] == "bytes through the coordinator"
