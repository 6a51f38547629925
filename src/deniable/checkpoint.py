"""Saving and loading a nested state without pickle: tensors by safetensors, the rest as JSON.

A checkpoint is ONE file: the JSON travels in the header of the safetensors file. Replacing one
file is atomic, so a crash at any instant leaves the whole old or the whole new checkpoint; no
order of renaming two files or a folder does that.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from deniable.errors import CheckpointError
from deniable.runfolder import replaced

FILE = "state.safetensors"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder`, atomically; only the owner can read it.

    Args:
        folder: made with mode 0700 where absent; it holds generator states, so it is private.
        state: dicts, lists and tuples of tensors, arrays, strings, bytes, numbers and None.

    Raises:
        CheckpointError: a value is of another kind.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    tensors: dict[str, torch.Tensor] = {}
    tree = _encode(state, tensors, "")
    with replaced(folder / FILE, mode=0o600) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(safetensors.torch.save(tensors, {"tree": json.dumps(tree)}))
    for left in folder.glob("*.new"):
        left.unlink()


def load(folder: Path) -> dict[str, Any]:
    """The state that `save` wrote, bit for bit, with tensors on the CPU.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / FILE
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            tree = json.loads(file.metadata()["tree"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = _decode(tree, tensors)
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint at {path}.") from None
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as problem:
        raise CheckpointError(
            f"The checkpoint {path} cannot be read: {problem}. Start the run again in another "
            "folder; what this one released stays in its ledger."
        ) from problem
    if not isinstance(state, dict):
        raise CheckpointError(
            f"The checkpoint {path} must hold a dict, got {type(state).__name__}."
        )
    return state


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: it is absent, cut off or damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as problem:
        raise CheckpointError(
            f"{path} cannot be read: {problem}. It may be cut off or damaged: bring it back from a "
            "copy, or train again."
        ) from problem


def load_model(model: torch.nn.Module, path: Path) -> None:
    """Give a model the weights of a safetensors file.

    Raises:
        CheckpointError: the file cannot be read, or holds the weights of another model.
    """
    weights = load_tensors(path)
    try:
        model.load_state_dict(weights)
    except RuntimeError as problem:
        why = " ".join(str(problem).split())
        raise CheckpointError(
            f"{path} does not hold the weights of the run's model: {why} "
            "Bring the file back from a copy, or the code of the model as it was in training."
        ) from problem


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint, readable or not."""
    return (folder / FILE).exists()


def _encode(value: Any, tensors: dict[str, torch.Tensor], path: str) -> Any:
    """JSON in which every value that JSON lacks is a dict of one key that starts with a dollar."""
    match value:
        case None | bool() | str():
            return value
        case int() | float():
            return value
        case bytes():
            return {"$bytes": value.hex()}
        case torch.Tensor():
            # A clone: safetensors refuses views that share memory, as tied weights do.
            tensors[path] = value.detach().cpu().clone().contiguous()
            return {"$tensor": path}
        case np.ndarray():
            tensors[path] = torch.from_numpy(value.copy())
            return {"$array": path}
        case np.generic():
            return _encode(value.item(), tensors, path)
        case list():
            return [_encode(each, tensors, f"{path}/{i}") for i, each in enumerate(value)]
        case tuple():
            return {"$tuple": _encode(list(value), tensors, path)}
        case dict():
            # Pairs, as optimizers key their state by whole numbers.
            return {
                "$dict": [
                    [_key(key, path), _encode(each, tensors, f"{path}/{key}")]
                    for key, each in value.items()
                ]
            }
    raise CheckpointError(
        "A checkpoint holds tensors, arrays, strings, bytes, numbers, lists and dicts; got "
        f"{type(value).__name__} at {path!r}. Leave it out of the state, or turn it into one of "
        "these."
    )


def _key(key: Any, path: str) -> str | int:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise CheckpointError(f"Keys must be strings or whole numbers, got {key!r} under {path!r}.")


def _decode(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    match tree:
        case {"$bytes": text}:
            return bytes.fromhex(text)
        case {"$tensor": path}:
            return tensors[path]
        case {"$array": path}:
            return tensors[path].numpy()
        case {"$tuple": values}:
            return tuple(_decode(values, tensors))
        case {"$dict": pairs}:
            return {key: _decode(each, tensors) for key, each in pairs}
        case list():
            return [_decode(each, tensors) for each in tree]
    return tree
