"""What a worker sends: all of its sums, or the coordinates that changed most."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from deniable.collaborate import coordinates
from deniable.collaborate.links import Message
from deniable.collaborate.packing import packed, unpacked


class Upload:
    """Makes uploads out of sums; remembers what selective uploads left out.

    Args:
        share: of the coordinates that is sent.
        carry: whether what was left out is added to the next sums.
    """

    def __init__(self, share: float = 1.0, carry: bool = False) -> None:
        self.share, self.carry = share, carry
        self._left_out: Tensor | None = None

    def of(self, sums: Mapping[str, Tensor], round_number: int) -> Message:
        """The message that uploads these sums.

        Selective uploads choose among noisy values: **with less than everything sent, the sums must
        hold their noise already**.

        Args:
            sums: by name, parameters first and in the model's order.
            round_number: the round that was asked for.
        """
        says = {"kind": "upload", "round": round_number}
        values = {name: _wide(each) for name, each in sums.items()}
        aside = [[name, list(each.shape)] for name, each in values.items() if name[0] == "."]
        if aside:
            says["aside"] = aside
        if self.share == 1:
            return Message(says, packed(list(values.values())))
        flat = torch.cat([each.detach().cpu().reshape(-1).float() for each in values.values()])
        if self._left_out is not None:
            flat += self._left_out
        places = coordinates.largest(flat, self.share)
        chosen = flat[places]
        if self.carry:
            self._left_out = flat.index_fill(0, places, 0.0)
        coded = torch.frombuffer(bytearray(coordinates.written(places)), dtype=torch.uint8)
        says["places"] = len(coded)
        return Message(says, torch.cat([coded, packed([chosen])]))


def opened(message: Message, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sums in an upload; coordinates that were not sent are zero.

    Raises:
        ValueError: the upload is of other parameters.
    """
    meta = torch.device("meta")
    like = {
        name: each
        if each.dtype == _width(each)
        else torch.empty(each.shape, dtype=_width(each), device=meta)
        for name, each in parameters.items()
    }
    for name, shape in message.says.get("aside", []):
        like[name] = torch.empty(shape, device=meta)
    coded = message.says.get("places")
    if coded is None:
        return unpacked(message.block, like)
    places = coordinates.read(message.block[:coded].numpy().tobytes())
    count = sum(math.prod(each.shape) for each in like.values())
    values = unpacked(message.block[coded:], {"chosen": torch.empty(len(places), device=meta)})
    flat = torch.zeros(count).index_copy_(0, places, values["chosen"])
    pieces = torch.split(flat, [each.numel() for each in like.values()])
    return {
        name: piece.view(each.shape)
        for (name, each), piece in zip(like.items(), pieces, strict=True)
    }


def _width(parameter: Tensor) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def _wide(value: Tensor) -> Tensor:
    return value.to(_width(value))
