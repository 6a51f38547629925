"""Random networks: chains of pieces, some parameters tied or frozen, and data to run them on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from gradients.pieces import Apply, Around, Draw, Piece, Shape, any_piece, sizes

CLASSES = 3
WORDS = 5


def ragged(x: Tensor, bag: nn.Module) -> Tensor:
    """The bags in one list; a row's first token says how many it has."""
    lengths = x[:, 0] % (x.shape[1] + 1)
    kept = torch.arange(x.shape[1]) < lengths[:, None]
    made: Tensor = bag(x[kept], lengths.cumsum(0) - lengths)
    return made


def weighted(x: Tensor, bag: nn.Module) -> Tensor:
    made: Tensor = bag(x, per_sample_weights=1.0 / (1 + x).to(bag.weight.dtype))
    return made


def table(x: Tensor, p: Tensor) -> Tensor:
    return p[x]


def one_hot(x: Tensor, p: Tensor) -> Tensor:
    return F.one_hot(x, WORDS).to(p.dtype) @ p


def of_tokens(draw: Draw, length: int) -> Piece:
    """Tokens become a sequence, or the vector of a bag."""
    width = draw(sizes)
    padding = draw(st.sampled_from([None, 0, -1]))
    match draw(st.sampled_from(["embedding", "embedding", "bag", "ragged", "weighted", "raw"])):
        case "embedding":
            return nn.Embedding(WORDS, width, padding_idx=padding), (length, width)
        case "raw":
            function = draw(st.sampled_from([table, one_hot]))
            return Apply(function.__name__, function, (WORDS, width)), (length, width)
        case "bag":
            mode = draw(st.sampled_from(["sum", "mean", "max"]))
            return nn.EmbeddingBag(WORDS, width, mode=mode, padding_idx=padding), (width,)
        case "ragged":
            bag = nn.EmbeddingBag(WORDS, width, mode=draw(st.sampled_from(["sum", "mean"])))
            return Around("ragged", ragged, bag), (width,)
    return Around("weighted", weighted, nn.EmbeddingBag(WORDS, width, mode="sum")), (width,)


@dataclass
class Generated:
    """A network in float64 and a data set for it."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor


@st.composite
def networks(draw: Draw, rows: int) -> Generated:
    """A network of up to six pieces, some of its parameters tied or frozen, and so many rows."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    rank = draw(st.integers(0, 4))
    shape: Shape = tuple(draw(sizes) for _ in range(max(1, rank)))
    if rank:
        inputs, pieces = torch.randn(rows, *shape, dtype=torch.float64), []
    else:
        inputs = torch.randint(WORDS, (rows, 1 + shape[0]))
        inputs[:, 0] = torch.arange(rows) % WORDS  # rows that are alike say nothing of their places
        first, shape = of_tokens(draw, 1 + shape[0])
        pieces = [first]
    for _ in range(draw(st.integers(1, 5))):
        made, shape = any_piece(draw, shape)
        pieces.append(made)
    model = nn.Sequential(*pieces, nn.Linear(shape[-1], CLASSES)).double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.8, 0.8)
    tie(draw, model)
    freeze(draw, model)
    return Generated(model, inputs, torch.randint(CLASSES, (rows, *shape[:-1])))


def tie(draw: Draw, model: nn.Module) -> None:
    """Now and then two modules of the same kind of weight share it."""
    places = [
        (module, name, tuple(value.shape))
        for module in model.modules()
        if not isinstance(module, nn.ParameterList)
        for name, value in module.named_parameters(recurse=False)
        if name == "weight"
    ]
    pairs = [(a, b) for k, a in enumerate(places) for b in places[:k] if a[2] == b[2]]
    if pairs and draw(st.booleans()):
        (module, name, _), (other, same, _) = draw(st.sampled_from(pairs))
        setattr(module, name, getattr(other, same))


def freeze(draw: Draw, model: nn.Module) -> None:
    parameters = list(model.parameters())
    if draw(st.booleans()):
        for k in draw(st.sets(st.integers(0, len(parameters) - 1), max_size=3)):
            if sum(each.requires_grad for each in parameters) > 1:
                parameters[k].requires_grad_(False)
