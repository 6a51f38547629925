"""Membership inference by quantile regression: one small model in place of many shadow models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deniable.audit.roc import Floats

HIDDEN, EPOCHS, BATCH, LR, WEIGHT_DECAY = 128, 40, 256, 1e-3, 1e-3
SMALLEST_DEVIATION = 1e-2  # of confidences whose own deviation is 1


class QuantileRegression:
    """How sure a model would be of an example that it has never seen: a distribution for each.

    Bertran et al. (2023, "Scalable Membership Inference Attacks via Quantile Regression", section
    3). A network sees input and label of examples that are known not to be members, and learns mean
    and deviation of the confidence by maximum likelihood, as normal distributions. An example whose
    confidence lies above its own `1 - a` quantile is accused, which happens to a share `a` of
    non-members where the fit is good. It needs no shadow models and nothing of how the model under
    attack was trained.

    Args:
        inputs: of examples that the model was not trained on, and that are not attacked.
        targets: their labels, `(batch,)`.
        confidences: how sure the model is of each.
        seed: of the network; torch's own generator stays as it was.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, confidences: Floats, seed: int = 0) -> None:
        self._classes = int(targets.max()) + 1
        flat = inputs.flatten(1).float()
        self._mean, self._scale = flat.mean(0), flat.std(0) + 0.1 * flat.std() + 1e-12
        found = torch.from_numpy(confidences).float()
        self._centre, self._spread = float(found.mean()), float(found.std()) + 1e-12
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._fit(self._features(inputs, targets), (found - self._centre) / self._spread)

    @torch.no_grad()
    def scores(self, inputs: Tensor, targets: Tensor, confidences: Floats) -> Floats:
        """By how many of its own deviations each confidence lies above its own mean."""
        mean, deviation = self._predict(self._features(inputs, targets))
        standard = (torch.from_numpy(confidences) - self._centre) / self._spread
        found: Floats = ((standard - mean.double()) / deviation.double()).numpy()
        return found

    def _features(self, inputs: Tensor, targets: Tensor) -> Tensor:
        labels = nn.functional.one_hot(targets.clamp(max=self._classes - 1), self._classes)
        flat = (inputs.flatten(1).float() - self._mean) / self._scale
        return torch.cat([flat, labels.float()], dim=1).cpu()

    def _predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self._network(features).unbind(1)
        return mean, nn.functional.softplus(spread) + SMALLEST_DEVIATION

    def _fit(self, features: Tensor, standard: Tensor) -> None:
        width = features.shape[1]
        self._network = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))
        optimizer = torch.optim.AdamW(self._network.parameters(), LR, weight_decay=WEIGHT_DECAY)
        for _ in range(EPOCHS):
            for rows in torch.split(torch.randperm(len(features)), BATCH):
                mean, deviation = self._predict(features[rows])
                error = (standard[rows] - mean) / deviation
                optimizer.zero_grad()
                (error.square() / 2 + deviation.log()).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        self._network.requires_grad_(False)
