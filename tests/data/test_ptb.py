"""Penn Treebank characters: read, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deniable.data import load, ptb, sources
from deniable.errors import DataError


def sizes() -> dict[str, int]:
    return {file.name: file.size for file in sources.FILES["ptb"]}


def test_a_target_is_the_character_after_its_input() -> None:
    text = bytes(np.random.default_rng(0).integers(32, 127, 1000, dtype=np.uint8))
    arrays = ptb.sequences(text, Path("text"))
    assert arrays.inputs.shape == arrays.targets.shape == (12, 80)
    assert arrays.inputs.dtype == arrays.targets.dtype == np.int64
    assert bytes(arrays.inputs.reshape(-1).tolist()) == text[:960]
    assert bytes(arrays.targets.reshape(-1).tolist()) == text[1:961]


@pytest.mark.parametrize(("length", "count"), [(81, 1), (160, 1), (161, 2)])
def test_the_last_sequence_needs_its_last_target(length: int, count: int) -> None:
    assert len(ptb.sequences(bytes(length), Path("text")).inputs) == count


@pytest.mark.parametrize("length", [0, 1, 80])
def test_a_text_without_one_sequence_is_refused(length: int) -> None:
    with pytest.raises(DataError, match=f"at least 81 characters, got {length}"):
        ptb.sequences(bytes(length), Path("text"))


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
    assert bytes(dataset.train.inputs[0].tolist()).startswith(b" aer banknote berlitz calloway")
