"""States saved without pickle, whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from deniable import checkpoint
from deniable.errors import CheckpointError
from deniable.randomness import Streams


def same(left: Any, right: Any) -> bool:
    """Equal in value, type, dtype and shape, bit for bit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and bool(np.array_equal(left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def test_a_nested_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    shared = torch.randn(3, 4)
    state = {
        "tensors": [shared, shared.T, torch.tensor(7), torch.empty(0, 5)],
        "kinds": (torch.randn(3).bfloat16(), torch.tensor([True]), torch.tensor([1e-310]).double()),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "betas": (0.9, 0.999)},
        "bytes": b"\x00\xff",
        "numbers": [0.1, -0.0, 2**130, True, None, float("inf"), 1e-320],
        "array": np.arange(5, dtype=np.uint64) + 2**63,
        "generator": Streams(3).numpy("sampling").bit_generator.state,
        "text": {"$bytes": "a key that looks like a mark", "ε": "σ"},
        "empty": [{}, [], ()],
    }
    checkpoint.save(tmp_path / "checkpoint", state)
    assert same(checkpoint.load(tmp_path / "checkpoint"), state)


def test_only_the_owner_can_read_a_checkpoint_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        checkpoint.save(tmp_path / "checkpoint", {"noise": b"secret"})
    finally:
        os.umask(before)
    folder = tmp_path / "checkpoint"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]


def test_an_interrupted_save_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, {"step": 1})

    def power_cut(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr(Path, "replace", power_cut)
        checkpoint.save(tmp_path, {"step": 2})
    assert checkpoint.load(tmp_path) == {"step": 1}


def test_what_a_killed_save_left_behind_is_swept_up(tmp_path: Path) -> None:
    (tmp_path / f"{checkpoint.FILE}.0badcafe.new").write_bytes(b"half")
    checkpoint.save(tmp_path, {"step": 1})
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_checkpoint_is_refused_by_name(tmp_path: Path, kept: int) -> None:
    checkpoint.save(tmp_path, {"weights": torch.randn(10)})
    path = tmp_path / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"state\.safetensors cannot be read"):
        checkpoint.load(tmp_path)


def test_an_absent_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    assert not checkpoint.exists(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("value", [object(), {1.5: 0}, {"deep": [{2, 3}]}, {None: 1}, {True: 1}])
def test_a_value_that_could_not_come_back_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(CheckpointError):
        checkpoint.save(tmp_path, {"state": value})
    assert not checkpoint.exists(tmp_path)


def test_weights_that_are_cut_off_absent_or_of_another_model_are_named(tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", torch.nn.Linear(4, 2)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        checkpoint.load_model(model, path)
    whole = safetensors.torch.save(dict(model.state_dict()))
    path.write_bytes(whole)
    checkpoint.load_model(model, path)
    with pytest.raises(CheckpointError, match=r"does not hold the weights .*size mismatch"):
        checkpoint.load_model(torch.nn.Linear(5, 2), path)
    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="may be cut off or damaged"):
            checkpoint.load_model(model, path)
