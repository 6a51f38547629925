"""Selective uploads: the right coordinates, few bytes, nothing lost that is carried."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deniable.collaborate import Local
from deniable.collaborate.coordinates import largest, read, written
from deniable.collaborate.uploads import Upload, opened
from deniable.errors import SettingsError

PARAMETERS = {"weight": torch.zeros(200, 100), "bias": torch.zeros(100)}


def noisy(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(each.shape, generator=generator) for name, each in PARAMETERS.items()}


def flat(sums: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([each.reshape(-1) for each in sums.values()])


@given(st.sets(st.integers(0, 5000)))
def test_places_that_are_written_can_be_read(places: set[int]) -> None:
    found = torch.tensor(sorted(places), dtype=torch.int64)
    assert read(written(found)).tolist() == found.tolist()


def test_the_largest_sizes_are_chosen_over_all_parameters_together() -> None:
    sums = noisy(1)
    sent = opened(Upload(0.1).of(sums, 1), PARAMETERS)
    values, kept = flat(sums), flat(sent)
    places = kept.nonzero().flatten()
    assert len(places) == 2010
    assert torch.equal(kept[places], values[places])
    left_out = values[kept == 0].abs().max()
    assert values[places].abs().min() >= left_out
    assert largest(values, 1.0).tolist() == list(range(len(values)))


def test_a_tenth_of_the_coordinates_takes_at_most_twelve_hundredths_of_the_bytes() -> None:
    whole, some = Upload().of(noisy(2), 1), Upload(0.1).of(noisy(2), 1)
    assert whole.block.nbytes == 4 * 20_100
    assert some.block.nbytes <= 0.118 * whole.block.nbytes


def test_what_was_left_out_is_carried_and_nothing_is_lost() -> None:
    upload, total, sent = Upload(0.2, carry=True), torch.zeros(20_100), torch.zeros(20_100)
    for seed in range(5):
        total += flat(noisy(seed))
        sent += flat(opened(upload.of(noisy(seed), seed), PARAMETERS))
    assert upload._left_out is not None
    torch.testing.assert_close(sent + upload._left_out, total)


def test_whole_uploads_arrive_as_they_were() -> None:
    sums = noisy(3) | {".within": torch.tensor(4.5)}
    arrived = opened(Upload().of(sums, 1), PARAMETERS)
    assert arrived.keys() == sums.keys()
    assert all(torch.equal(arrived[name], sums[name]) for name in sums)


@pytest.mark.parametrize("settings", [{"upload": 0.0}, {"upload": 1.1}, {"carry": True}])
def test_settings_that_select_nothing_sensible_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        Local(**settings)  # type: ignore[arg-type]
