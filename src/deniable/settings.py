"""What a training run is told: every option of the command, with good values for each data set.

Importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from deniable.errors import SettingsError
from deniable.modes import MODES, Central, Mode, mode_from_json

BOUNDS = ("clip", "per-layer", "adaptive", "automatic", "tanh", "tanh-clip")
# Settings that say something of some bounds only.
OF_BOUNDS = {
    "clip": ("clip", "per-layer", "adaptive", "automatic", "tanh-clip"),
    "quantile": ("adaptive",),
    "output_range": ("tanh", "tanh-clip"),
    "active_range": ("tanh", "tanh-clip"),
}
# How workers train together, and the settings that only some modes have.
OF_MODES = {name: tuple(each.name for each in fields(kind)) for name, kind in MODES.items()}

PATIENCE_SECONDS = 30.0  # that a round waits for a worker
WIDE = 1e9  # a clip norm that no gradient exceeds

# Chosen on a validation part of the training rows, never on the test set.
DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "model": "digits-mlp",
        "optimizer": "adam",
        "lr": 0.01,
        "batch_size": 1024,
        "epochs": 300,
    },
    "mnist": {
        "model": "mnist-cnn",
        "optimizer": "sgd",
        "lr": 1.0,
        "batch_size": 2048,
        "epochs": 20,
        "clip": 0.3,
    },
    "fashion-mnist": {
        "model": "mnist-cnn",
        "optimizer": "sgd",
        "lr": 1.0,
        "batch_size": 2048,
        "epochs": 20,
        "clip": 0.3,
    },
    "cifar10": {
        "model": "cifar-cnn",
        "optimizer": "sgd",
        "lr": 1.0,
        "batch_size": 1024,
        "epochs": 20,
        "clip": 0.3,
    },
    "ptb": {
        "model": "char-lstm",
        "optimizer": "adam",
        "lr": 0.003,
        "batch_size": 384,
        "epochs": 5,
        "clip": 0.3,
    },
}


@dataclass(frozen=True)
class Settings:
    """One run, completely: the same settings on the same data with a seed give the same model.

    Attributes:
        data: which data set, by name.
        data_dir: the folder that holds its files; None: DENIABLE_DATA, or a download.
        model: a name from `deniable.models.MODELS`, or `module:factory`.
        optimizer: a name from `deniable.models.OPTIMIZERS`.
        lr: the optimizer's learning rate.
        momentum: of sgd and rmsprop.
        batch_schedule: what the batch size is multiplied by over the steps, as
            `deniable.Schedule.parse` reads it; None: nothing.
        noise_schedule: what the noise multiplier is multiplied by.
        batch_size: how many examples a step draws on average; None: as many as epochs, epsilon and
            the noise allow.
        sampling: how batches come about: poisson, truncated-poisson, fixed-size or shuffled.
        max_batch_size: the largest batch of truncated-poisson.
        neighbouring: add-or-remove or replace; None: what is usual for the sampling.
        epochs: passes over the data; None: as many as epsilon and the noise allow.
        epsilon: what may be spent; None: what epochs and noise come to.
        noise_multiplier: standard deviation of the noise over the clip norm, or, under
            replacement, over twice that; None: solved.
        delta: of the (epsilon, delta) guarantee.
        bound: what limits one example's gradient, a name from `BOUNDS`.
        clip: the norm that no example's gradient exceeds; with an adaptive bound, at first.
        quantile: the share of gradients that an adaptive bound leaves as they are.
        output_range: of the tanh filter, the largest size of a coordinate.
        active_range: of the tanh filter, how large a coordinate it is close to linear for.
        seed: makes the run reproducible, and its noise with it; None: randomness of the system.
        secure: draw the noise from an AES keystream.
        device: "auto", "cpu", "cuda" or another torch device.
        rows: at most so many rows in memory at once; None: the whole batch.
        checkpoint_seconds: time between checkpoints.
        audit: train with canaries, and audit what is claimed when the run is complete.
        canaries: how many gradient canaries; None: as many as tell much and cost little.
        mislabelled: how many training examples are mislabelled, as canaries, too; None: none.
        workers: how many processes train together, beside one that coordinates; None: one alone.
        mode: who adds noise when several do: central, shares or local.
        upload: of local, the share of coordinates that is sent; None: all of them.
        carry: of local, whether what was not sent is carried to the next round.
        survives: of shares, how many workers may be gone, or pool what they know; None: none.
        patience: seconds that a round waits for a worker.

    Raises:
        SettingsError: a value is out of its range.
    """

    data: str
    model: str
    optimizer: str
    lr: float
    batch_size: int | None = None
    sampling: str = "poisson"
    max_batch_size: int | None = None
    neighbouring: str | None = None
    epochs: float | None = None
    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    bound: str = "clip"
    clip: float = 1.0
    quantile: float = 0.5
    output_range: float = 1.0
    active_range: float = 1.0
    momentum: float = 0.9
    batch_schedule: str | None = None
    noise_schedule: str | None = None
    data_dir: str | None = None
    seed: int | None = None
    secure: bool = False
    device: str = "auto"
    rows: int | None = None
    checkpoint_seconds: float = 30.0
    audit: bool = False
    canaries: int | None = None
    mislabelled: int | None = None
    workers: int | None = None
    mode: str | None = None
    upload: float | None = None
    carry: bool = False
    survives: int | None = None
    patience: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise SettingsError(f"The learning rate must be positive and finite, got {self.lr!r}.")
        if self.seed is not None and self.seed < 0:
            raise SettingsError(f"seed must be at least 0, got {self.seed!r}.")
        if not 0 <= self.momentum < 1:
            raise SettingsError(f"momentum must lie in [0, 1), got {self.momentum!r}.")
        if not (math.isfinite(self.clip) and self.clip >= 1e-10):
            raise SettingsError(
                f"The clip norm must be finite and at least 1e-10, got {self.clip!r}."
            )
        if self.bound not in BOUNDS:
            raise SettingsError(
                f"No bound is called {self.bound!r}. Choose one of {', '.join(BOUNDS)}."
            )
        if not 0 < self.quantile < 1:
            raise SettingsError(f"quantile must lie between 0 and 1, got {self.quantile!r}.")
        for name in ("output_range", "active_range"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise SettingsError(
                    f"{name} must be positive and finite, got {getattr(self, name)!r}."
                )
        if self.rows is not None and not self.rows >= 1:
            raise SettingsError(f"rows must be at least 1, got {self.rows!r}.")
        if not self.checkpoint_seconds >= 0:
            raise SettingsError(
                f"checkpoint_seconds must be at least 0, got {self.checkpoint_seconds!r}."
            )
        for name in ("canaries", "mislabelled"):
            value = getattr(self, name)
            if value is not None and not (self.audit and value >= 0):
                raise SettingsError(
                    f"{name} says how an audited run is trained: it must be at least 0 and come "
                    f"with audit, got {value!r} and audit={self.audit}."
                )
        if self.workers is not None and not self.workers >= 1:
            raise SettingsError(f"workers must be at least 1, got {self.workers!r}.")
        if self.workers and self.audit:
            raise SettingsError(
                "Canaries join the batches of one process. Audit without workers, or train without "
                "audit."
            )
        if self.patience is not None and not (math.isfinite(self.patience) and self.patience > 0):
            raise SettingsError(f"patience must be positive and finite, got {self.patience!r}.")
        self.worker_mode()

    @classmethod
    def choose(cls, data: str, *, privacy: bool = True, **given: Any) -> Settings:
        """The data set's defaults, with what was given (None counts as not given) in their place.

        Epsilon is 3 unless epsilon, or noise and epochs, say otherwise; of the three, the plan
        solves the one that is left out, and the batch size where none is.

        Without privacy there is no noise, and a bound so wide that it changes nothing: the model to
        compare a private one with.

        Raises:
            SettingsError: no such data set, a value out of its range, or one that is for another
                bound.

        >>> Settings.choose("digits", lr=0.02).lr
        0.02
        >>> Settings.choose("digits", noise_multiplier=1.0).epsilon is None
        True
        """
        if data not in DEFAULTS:
            raise SettingsError(
                f"No data set is called {data!r}. Choose one of {', '.join(DEFAULTS)}."
            )
        given = {name: value for name, value in given.items() if value is not None}
        if not privacy:
            _without_privacy(given)
        bound = given.get("bound", "clip")
        for name, bounds in OF_BOUNDS.items():
            if name in given and bound in BOUNDS and bound not in bounds:
                raise SettingsError(
                    f"{name} says nothing of the bound {bound}; it is for {', '.join(bounds)}. "
                    "Leave it out, or choose another bound."
                )
        _check_collaboration(given)
        defaults = dict(DEFAULTS[data])
        if "workers" in given:
            defaults |= {"mode": "central", "patience": PATIENCE_SECONDS}
        if "noise_multiplier" in given and "epsilon" in given:
            defaults.pop("batch_size" if "epochs" in given else "epochs", None)
        elif "noise_multiplier" not in given:
            defaults["epsilon"] = 3.0
        return cls(data=data, **(defaults | given))

    @classmethod
    def names(cls) -> set[str]:
        """Of all settings."""
        return {each.name for each in fields(cls)}

    def worker_mode(self) -> Mode:
        """The mode in which several workers train.

        Raises:
            SettingsError: there is no such mode, or a setting of it is out of its range.
        """
        name = self.mode or Central.name
        given = {each: getattr(self, each) for each in OF_MODES.get(name, ())}
        known = {each: value for each, value in given.items() if value is not None}
        return mode_from_json({"name": name} | known)

    def to_json(self) -> dict[str, Any]:
        """Every setting, by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """The settings that `to_json` wrote.

        Raises:
            SettingsError: a setting is missing, not known to this version, or out of its range.
        """
        known = cls.names()
        if set(values) != known:
            raise SettingsError(
                f"The saved settings do not fit this version of deniable: missing "
                f"{sorted(known - set(values))}, not known {sorted(set(values) - known)}. Resume "
                "with the version that wrote them."
            )
        try:
            return cls(**values)
        except TypeError as problem:
            raise SettingsError(
                f"The saved settings hold a value of a wrong type: {problem}. Bring the run's "
                "run.json back from a copy."
            ) from problem


def _check_collaboration(given: Mapping[str, Any]) -> None:
    """Refuse settings that say nothing of the mode, or of a run without workers."""
    if "workers" not in given:
        for name in ("mode", "upload", "carry", "survives", "patience"):
            if name in given:
                raise SettingsError(f"{name} is for several workers: give --workers too.")
    mode = given.get("mode", "central")
    for of, names in OF_MODES.items():
        for name in names:
            if name in given and mode in OF_MODES and mode != of:
                raise SettingsError(f"{name} is for the mode {of}, not for {mode}.")


def _without_privacy(given: dict[str, Any]) -> None:
    """Put no noise and no bound to speak of in the place of what would make a run private."""
    meaningless = [
        name
        for name in ("epsilon", "noise_multiplier", "delta", "bound", "clip")
        if given.get(name, "clip") != "clip"
    ]
    if meaningless:
        raise SettingsError(
            f"Without privacy there is nothing for {', '.join(meaningless)} to say. Leave that "
            "out, or train with privacy."
        )
    given |= {"noise_multiplier": 0.0, "clip": WIDE}
