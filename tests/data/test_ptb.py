"""Penn Treebank characters: read, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deniable.data import load, ptb, sources
from deniable.errors import DataError


def sizes() -> dict[str, int]:
    return {file.name: file.size for file in sources.FILES["ptb"]}


def test_every_character_is_the_target_of_one_sequence_and_no_two_share_any() -> None:
    text = bytes(np.random.default_rng(0).integers(32, 127, 1000, dtype=np.uint8))
    arrays = ptb.sequences(text)
    assert arrays.inputs.shape == arrays.targets.shape == (12, 80)
    assert arrays.inputs.dtype == arrays.targets.dtype == np.int64
    assert bytes(arrays.targets.reshape(-1).tolist()) == text[:960]
    assert (arrays.inputs[:, 1:] == arrays.targets[:, :-1]).all()
    assert (arrays.inputs[:, 0] == ptb.START).all()


def test_a_character_of_the_text_changes_one_sequence_alone() -> None:
    """A unit is a sequence: what a neighbouring text differs in must not reach two of them."""
    text = bytearray(b"a" * 800)
    before = ptb.sequences(bytes(text))
    for place in (0, 79, 80, 159):
        changed = text.copy()
        changed[place] = ord("b")
        after = ptb.sequences(bytes(changed))
        moved = (before.inputs != after.inputs) | (before.targets != after.targets)
        assert moved.any(1).nonzero()[0].tolist() == [place // 80]


@pytest.mark.parametrize(("length", "count"), [(80, 1), (159, 1), (160, 2)])
def test_what_fills_no_sequence_is_dropped(length: int, count: int) -> None:
    assert len(ptb.sequences(bytes(length)).inputs) == count


@pytest.mark.parametrize("length", [0, 1, 79])
def test_a_text_without_one_sequence_is_refused(length: int) -> None:
    with pytest.raises(DataError, match=f"at least 80 characters, got {length}"):
        ptb.sequences(bytes(length))


def test_line_breaks_are_shown_and_what_cannot_be_printed_too() -> None:
    assert ptb.text_of(b"ab \n\x07\x00") == "ab ⏎�·"


def test_a_truncated_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "ptb.train.txt").write_bytes(b"aer banknote")
    with pytest.raises(DataError, match=r"ptb\.train\.txt: .*5,101,618.*got 12: it was cut off"):
        load("ptb", tmp_path)


def test_another_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "ptb.train.txt").write_bytes(b"a" * sizes()["ptb.train.txt"])
    with pytest.raises(DataError, match=r"ptb\.train\.txt: .*SHA-256.*Replace it .*github"):
        load("ptb", tmp_path)


def test_swapped_texts_are_recognised(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "ptb.train.txt").symlink_to(real_data / "ptb" / "ptb.train.txt")
    (tmp_path / "ptb.test.txt").symlink_to(real_data / "ptb" / "ptb.train.txt")
    with pytest.raises(DataError, match=r"expected ptb\.test.*holds ptb\.train.*swapped"):
        load("ptb", tmp_path)


def test_the_real_files_are_read(real_data: Path) -> None:
    dataset = load("ptb", real_data)
    assert dataset.classes == 256
    assert dataset.train.inputs.shape == (63_770, 80)
    assert dataset.test.inputs.shape == (5_624, 80)
    assert dataset.validation is not None
    assert dataset.validation.inputs.shape == (4_997, 80)
    assert bytes(dataset.train.targets[0].tolist()).startswith(b" aer banknote berlitz calloway")
    texts = [each.targets for each in (dataset.train, dataset.validation, dataset.test)]
    assert not any((each == ptb.START).any() for each in texts)
