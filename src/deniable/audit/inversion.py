"""Model inversion: what does a model take a class to look like? An attack, no guarantee.

Gradient descent on the input, towards a class (Fredrikson, Jha & Ristenpart, 2015). What comes out
is a picture of the class, not of an example. Where thousands of people wrote the sevens, it shows
what sevens have in common, which the model is meant to know and which differential privacy does not
hide. Where a class is one person, as in face recognition, the class is what they are to be
protected in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deniable.audit.observing import evaluating
from deniable.audit.roc import Floats

Process = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Inversion:
    """The attack MI-Face, with its settings.

    Fredrikson, Jha & Ristenpart (2015, "Model Inversion Attacks that Exploit Confidence Information
    and Basic Countermeasures", algorithm 1). It lowers the cost `1 - p(class)` of an input by
    gradient descent, processes the input after each step, and keeps the input of least cost. It
    ends after `steps`, when the cost has not fallen for `patience` steps, or below `enough`.

    Two things are done as is usual since: the cost that is descended on is `-log p(class)`, whose
    gradient does not vanish where p is close to 0 or 1; and the gradient is scaled to unit norm, so
    that one `rate` serves all models.

    Attributes:
        steps: at most.
        rate: how far a step goes, as a norm.
        patience: how many steps without a lower cost end it.
        enough: a cost that ends it.
        weight_decay: how fast what no gradient asks for fades, a share a step.
        process: applied after each step; `smoothed` stands for their denoising and sharpening, and
            None for the attack without it.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0]]))
    >>> Inversion(process=None)(model, (1, 2, 2), [0]).round()
    tensor([[[[1., 0.],
              [0., 0.]]]])
    """

    steps: int = 300
    rate: float = 0.5
    patience: int = 100
    enough: float = 1e-3
    weight_decay: float = 0.05
    process: Process | None = None

    def __call__(self, model: nn.Module, shape: Sequence[int], classes: Sequence[int]) -> Tensor:
        """One image a class, from an all-zero image on.

        Args:
            model: from images with values in [0, 1] to scores `(batch, classes)`; its weights and
                its mode stay as they are.
            shape: of one image: channels, height, width.
            classes: which ones to look for.

        Returns:
            Images `(len(classes), *shape)`, all at once: rows of a batch do not touch each other.
        """
        with evaluating(model):
            return self._descend(model, torch.zeros(len(classes), *shape), torch.tensor(classes))

    def _descend(self, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        parameter = next(model.parameters(), images)
        images, classes = images.to(parameter.device), classes.to(parameter.device)
        best, least = images.clone(), torch.full((len(images),), torch.inf, device=images.device)
        since = torch.zeros(len(images), dtype=torch.long, device=images.device)
        for _ in range(self.steps + 1):
            images.requires_grad_()
            loss = nn.functional.cross_entropy(model(images), classes, reduction="none")
            (gradient,) = torch.autograd.grad(loss.sum(), images)
            cost = -torch.expm1(-loss.detach())
            better = cost < least
            least, since = torch.where(better, cost, least), torch.where(better, 0, since + 1)
            images = images.detach()
            best[better] = images[better]
            going = (least > self.enough) & (since <= self.patience)
            if not going.any():
                break
            norms = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
            step = self.rate * gradient / norms[(...,) + (None,) * (images.dim() - 1)]
            moved = (images * (1 - self.weight_decay) - step).clamp(0, 1)
            if self.process is not None:
                moved = self.process(moved)
            images = torch.where(going[(...,) + (None,) * (images.dim() - 1)], moved, images)
        return best


def smoothed(images: Tensor) -> Tensor:
    """Each pixel drawn halfway towards its neighbourhood, of binomial weights 1, 2, 1.

    Fredrikson et al. (2015, section 5.3) denoise and sharpen between steps; a model's gradient is
    rough from pixel to pixel, and pictures of things are not.

    >>> smoothed(torch.ones(1, 1, 4, 4))[0, 0, 1]
    tensor([1., 1., 1., 1.])
    """
    channels = images.shape[1]
    weights = torch.tensor([1.0, 2.0, 1.0], device=images.device) / 4
    kernel = torch.outer(weights, weights).expand(channels, 1, 3, 3)
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    return images.lerp(nn.functional.conv2d(padded, kernel, groups=channels), 0.5)


def stretched(images: Tensor) -> Tensor:
    """Each image in its own full contrast, from 0 to 1, to be looked at; a blank one stays dark.

    >>> stretched(torch.tensor([[[[0.2, 0.4]]]])).round()
    tensor([[[[0., 1.]]]])
    """
    flat = images.flatten(1)
    low, high = flat.min(1, keepdim=True)[0], flat.max(1, keepdim=True)[0]
    return ((flat - low) / (high - low).clamp(min=1e-12)).view_as(images)


def class_means(inputs: Tensor, targets: Tensor, classes: Sequence[int]) -> Tensor:
    """What the examples of each class have in common: their mean."""
    return torch.stack([inputs[targets == each].mean(0) for each in classes])


def correlation(images: Tensor, others: Tensor) -> Floats:
    """How alike two pictures are, pixel by pixel, whatever their brightness and contrast.

    Pearson's correlation over pixels, for each pair of rows: 1 for the same picture, about 0 for
    two that have nothing to do with each other. It says nothing about what a person would see.

    Args:
        images: `(n, ...)`.
        others: `(n, ...)`, or one `(1, ...)` for all.

    Returns:
        `(n,)`; 0 where a picture is blank.
    """
    first, second = (_standard(each) for each in (images, others))
    found: Floats = (first * second).sum(1).numpy()
    return found


def ranks(images: Tensor, true: Tensor, alike: Tensor) -> list[int]:
    """Which place the true picture takes among others, by correlation with the recovered one.

    1: nothing is closer to what was recovered than the very picture. About half of the number of
    pictures: the attack recovered nothing that tells this picture from its like.

    Args:
        images: recovered, `(n, ...)`.
        true: what they are held against, `(n, ...)`.
        alike: others that the model never saw, `(n, m, ...)`.
    """
    found = correlation(images, true)
    return [
        1 + int((correlation(others, image[None]) >= own).sum())
        for image, own, others in zip(images, found, alike, strict=True)
    ]


def _standard(images: Tensor) -> Tensor:
    flat = images.flatten(1).double().cpu()
    centred = flat - flat.mean(1, keepdim=True)
    norms: Tensor = centred.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return centred / norms
