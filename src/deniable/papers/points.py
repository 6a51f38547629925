"""What figures are made of: trainings, completely described by values.

Importable without torch: what the names stand for is looked up when a training is run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

Watch = Callable[[float, str], None]
"""Told the share of a training that is done, and how it stands, in words."""

ROWS = {
    "digits": 1437,
    "mnist": 60_000,
    "fashion-mnist": 60_000,
    "cifar10": 50_000,
    "ptb": 63_770,
    "sentences": 1_000,
}


@dataclass(frozen=True, init=False)
class Named:
    """A name with its arguments: a network, a bound or features.

    >>> Named("mlp", hidden=1000).to_json()
    {'name': 'mlp', 'hidden': 1000}
    """

    name: str
    arguments: dict[str, Any]

    def __init__(self, name: str, **arguments: Any) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "arguments", arguments)

    def to_json(self) -> dict[str, Any]:
        """Name and arguments in one object."""
        return {"name": self.name} | self.arguments


@dataclass(frozen=True)
class Training:
    """A model trained by DP-SGD, or a relative of it.

    Attributes:
        data: which data set.
        model: one of `deniable.papers.networks`.
        batch_size: how many examples a step draws on average (a lot, a minibatch).
        epochs: passes over the data, at most.
        lr: the learning rate; or pairs of epoch and rate, between which it runs straight.
        noise_multiplier: the noise over the sensitivity, 0 for none; None: solved for `epsilon`.
        epsilon: where training ends if it has not ended before, everything counted.
        bound: a bound, by name.
        noise_deviation: the deviation of the noise on the sum itself, in place of the multiplier.
        optimizer: by name.
        momentum: of sgd.
        features: what the images are turned into beforehand; None: nothing.
        delta: of the guarantee.
        seed: of everything; the data sets are public.
        train_rows: how many training rows are used, from the first on; None: all.
        held_out: how many training rows, from the last on, stand in for the test set.
        rows: at most so many rows in memory at once.
        sampling: how batches are drawn.
        noise_per: what gets noise of deviation `noise_multiplier` times the clip norm: the sum of a
            "batch", or each "example" in it.
    """

    data: str
    model: Named
    batch_size: int
    epochs: float
    lr: float | tuple[tuple[float, float], ...]
    noise_multiplier: float | None = None
    epsilon: float | None = None
    bound: Named = field(default_factory=lambda: Named("Clip", norm=1.0))
    noise_deviation: float | None = None
    optimizer: str = "sgd"
    momentum: float = 0.0
    features: Named | None = None
    delta: float = 1e-5
    seed: int = 0
    train_rows: int | None = None
    held_out: int = 0
    rows: int | None = None
    sampling: str = "poisson"
    noise_per: str = "batch"
    cost: float = field(default=1.0, compare=False)

    @property
    def work(self) -> float:
        """Examples to be passed through the model, weighted with what one costs."""
        return self.epochs * (self.train_rows or ROWS[self.data]) * self.cost

    def but(self, **changes: Any) -> Self:
        """The same with other values."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Every setting that is not left at its default, by name."""
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "cost" or (value == each.default and each.name not in _ALWAYS):
                continue
            found[each.name] = value.to_json() if isinstance(value, Named) else value
        return found


@dataclass(frozen=True)
class Recurrent:
    """A recurrent network on a task that asks for a long memory, without privacy.

    Attributes:
        cure: what is done to the mean gradient: `none`, `norm` or `tanh`, with its settings.
        lr: the learning rate.
        steps: how many.
        length: of a sequence.
        seed: of weights and sequences.
    """

    cure: Named
    lr: float
    steps: int
    length: int
    seed: int = 0

    @property
    def work(self) -> float:
        """In examples of the network with one layer, about."""
        return self.steps * self.length * 4.0

    def to_json(self) -> dict[str, Any]:
        """Every setting, by name."""
        return asdict(self) | {"cure": self.cure.to_json()}


@dataclass(frozen=True)
class Language:
    """Two character models of one text, one of them private, with the same canaries in both.

    Attributes:
        private: trained with noise; its `train_rows` are those of both.
        ordinary: trained without privacy, by a loop that knows none of it.
        canaries: pairs of how often a canary is repeated and how many such canaries there are.
        others: how many other secrets each one is compared with.
        seed: of the canaries.
    """

    private: Training
    ordinary: Training
    canaries: tuple[tuple[int, int], ...]
    others: int = 511
    seed: int = 0

    @property
    def work(self) -> float:
        """In examples of the network with one layer, about."""
        return self.private.work + self.ordinary.work

    def to_json(self) -> dict[str, Any]:
        """Every setting, by name."""
        return asdict(self) | {
            "data": self.private.data,
            "private": self.private.to_json(),
            "ordinary": self.ordinary.to_json(),
        }


@dataclass(frozen=True)
class Attacked:
    """A model that is trained and then attacked.

    Attributes:
        attack: `membership`, `inversion` or `rare`, with its settings.
        training: of the model; its `train_rows` are drawn at random.
        beside: of the model without privacy that it is compared with, where the attack needs one.
    """

    attack: Named
    training: Training
    beside: Training | None = None

    @property
    def work(self) -> float:
        """Examples to be passed through models, those without privacy at a third of the cost."""
        models = 1 + int(self.attack.arguments.get("shadows", 0))
        trainings = [each for each in (self.training, self.beside) if each is not None]
        return models * sum(
            each.work / (3.0 if each.noise_multiplier == 0 else 1.0) for each in trainings
        )

    def to_json(self) -> dict[str, Any]:
        """Every setting, by name."""
        beside = {} if self.beside is None else {"beside": self.beside.to_json()}
        return {
            "data": self.training.data,
            "attack": self.attack.to_json(),
            "training": self.training.to_json(),
        } | beside


@dataclass(frozen=True)
class Together:
    """A network that workers train for a coordinator, each a process of one thread.

    Attributes:
        data: which data set.
        hidden: units of the one layer.
        components: public principal components that images become (Fashion-MNIST's); 0: none.
        batch_size: how many examples a round draws on average, over all workers.
        steps: rounds.
        workers: how many.
        mode: "central" or "local".
        upload: which share of the coordinates a worker sends.
        carry: whether it adds what it left out to the next upload.
        lr: the learning rate; or that of the first and that of the last round.
        norm: of the clip.
        noise_multiplier: of the plan; None: solved for `epsilon`.
        epsilon: of the whole training.
        delta: of the guarantee.
        seed: of everything; the data sets are public.
    """

    data: str
    hidden: int
    components: int
    batch_size: int
    steps: int
    workers: int
    mode: str = "central"
    upload: float = 1.0
    carry: bool = False
    lr: float | tuple[float, float] = 0.1
    norm: float = 4.0
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float = 1e-5
    seed: int = 0

    @property
    def work(self) -> float:
        """In examples of one process, about; a round costs something beside its examples."""
        return float(self.steps * (self.batch_size + 300))

    def but(self, **changes: Any) -> Self:
        """The same with other values."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Every setting, by name."""
        return asdict(self)


Point = Training | Recurrent | Attacked | Language | Together

_ALWAYS = ("noise_multiplier", "epsilon", "delta", "seed", "optimizer")
