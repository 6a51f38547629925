"""`check` finds what lets the rows of a batch meet, names it, and passes what does not."""

from __future__ import annotations

import copy
from collections import UserDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deniable
from benchmarks.workloads import WORKLOADS, Workload
from deniable.errors import CaptureError
from gradients.networks import CASES, Case
from gradients.test_moved_rows import MODELS


def class_loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), labels)


def batch_of(n: int = 8) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(n, 4), torch.randint(3, (n,))


def test_batch_norm_is_named_with_its_mend() -> None:
    """Pitfall: users 4."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    with pytest.raises(CaptureError, match=r"module '1' \(BatchNorm1d\).*replace_batchnorm"):
        deniable.check(model, class_loss, batch_of())


class Centred(nn.Module):
    """Subtracts the mean over the batch, from what its layer gets or from what it makes."""

    def __init__(self, inputs: bool) -> None:
        super().__init__()
        self.inputs, self.head = inputs, nn.Linear(6, 3)

    def forward(self, h: Tensor) -> Tensor:
        if self.inputs:
            return self.head(h - h.mean(0))
        outputs = self.head(h)
        return outputs - outputs.mean(0)


@pytest.mark.parametrize(
    ("inputs", "where"),
    [
        (True, r"in the forward of '1', before module '1\.head'"),
        (False, r"in module '1' \(Centred\)"),
    ],
)
def test_subtracting_the_batch_mean_is_named_by_the_module_that_does_it(
    inputs: bool, where: str
) -> None:
    model = nn.Sequential(nn.Linear(4, 6), Centred(inputs))
    with pytest.raises(CaptureError, match=where):
        deniable.check(model, class_loss, batch_of())


def centred_inputs(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs - inputs.mean(0)), labels)


def centred_outputs(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    outputs = model(inputs)
    return F.cross_entropy(outputs - outputs.mean(0), labels)


def contrastive(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    z = F.normalize(model(inputs), dim=1)
    return F.cross_entropy(z @ z.T, torch.arange(len(z)))


def neighbours(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    outputs = model(inputs)
    return F.cosine_similarity(outputs, outputs.roll(1, 0)).mean()


def weighted_classes(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """torch divides by the sum of the weights of the classes that the rows happen to have."""
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=inputs.dtype)
    return F.cross_entropy(model(inputs), labels, weight=weight)


@pytest.mark.parametrize("name", MODELS)
def test_rows_may_change_places_within_the_model(name: str) -> None:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    batch = torch.randn(6, *shape), torch.randint(3, (6,))
    assert deniable.check(build(), class_loss, batch).rows == 6


@pytest.mark.parametrize(
    ("loss", "where"),
    [
        (centred_inputs, "before the model is called"),
        (centred_outputs, "meet in the loss"),
        (contrastive, "meet in the loss"),
        (neighbours, "meet in the loss"),
        (weighted_classes, "meet in the loss.*weights of classes"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_loss_in_which_rows_meet_is_found(loss: Any, where: str) -> None:
    """Pitfall: privacy 7."""
    with pytest.raises(CaptureError, match=where):
        deniable.check(nn.Linear(4, 3), loss, batch_of())


def test_attention_along_the_batch_is_named_with_its_mend() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8), nn.Flatten(), nn.Linear(20, 3))
    batch = (torch.randn(8, 5, 4), torch.randint(3, (8,)))
    with pytest.raises(CaptureError, match=r"'0\.self_attn'.*batch_first=True"):
        deniable.check(model, class_loss, batch)


def test_the_mode_of_each_layer_is_kept() -> None:
    """Normalisation by fixed statistics keeps rows apart; a model that is not trained is no use."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6).requires_grad_(False), nn.Linear(6, 3))
    model[1].eval()
    assert deniable.check(model, class_loss, batch_of()).rows == 6
    with pytest.raises(CaptureError, match=r"model\.train\(\)"):
        deniable.check(model.eval(), class_loss, batch_of())


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_the_workloads_of_the_benchmark_pass(workload: Workload) -> None:
    torch.manual_seed(0)
    model, batch = workload.build(), workload.data(3)

    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return workload.loss(model(inputs), labels)

    checked = deniable.check(model, loss, batch, rows=3)
    assert checked.parameters == sum(each.numel() for each in model.parameters())
    assert checked.largest_error is not None and checked.largest_error < 1e-10


def test_ignore_index_under_a_token_mean_is_found() -> None:
    """Pitfall: privacy 7."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    tokens = torch.randint(5, (6, 7))
    labels = tokens.clone()
    for row in range(6):
        labels[row, : row + 1] = -100  # rows of different lengths

    def token_mean(model: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten())

    def mean_of_row_means(model: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
        each = F.cross_entropy(model(tokens).movedim(-1, 1), labels, reduction="none")
        return (each.sum(1) / (labels != -100).sum(1)).mean()

    with pytest.raises(CaptureError, match=r"meet in the loss.*ignore_index"):
        deniable.check(model, token_mean, (tokens, labels))
    assert deniable.check(model, mean_of_row_means, (tokens, labels)).rows == 6


def test_a_wrong_reduction_is_found() -> None:
    def summed(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(inputs), labels, reduction="sum")

    model = nn.Linear(4, 3)
    with pytest.raises(CaptureError, match="loss_reduction='sum'"):
        deniable.check(model, summed, batch_of())
    with pytest.raises(CaptureError, match="loss_reduction='mean'"):
        deniable.check(model, class_loss, batch_of(), loss_reduction="sum")
    assert deniable.check(model, summed, batch_of(), loss_reduction="sum").rows == 6


@pytest.mark.filterwarnings("ignore:Using padding='same'", "ignore:LSTM with projections")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_supported_use_passes_and_nothing_of_the_model_changes(case: Case) -> None:
    torch.manual_seed(0)
    model = case.build()
    before = copy.deepcopy(model.state_dict())
    checked = deniable.check(model, case.loss, case.batch(5))
    assert checked.largest_error is not None and checked.largest_error < 1e-8
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_random_models_are_checked_for_isolation_alone() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.randn_like(x))

    assert deniable.check(Noisy(4, 3), class_loss, batch_of()).largest_error is None
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    assert deniable.check(model, class_loss, batch_of()).largest_error is not None
    assert model[1].p == 0.5


# -- replace_batchnorm -----------------------------------------------------------------------------


def test_replaced_layers_keep_their_parameters_names_and_optimizer() -> None:
    """Pitfall: users 4."""
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Sequential(nn.BatchNorm2d(12))
    )
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    names, identities = list(dict(model.named_parameters())), [id(p) for p in model.parameters()]
    assert deniable.replace_batchnorm(model, optimizer) == ["1", "2.0"]
    assert list(dict(model.named_parameters())) == names
    assert [id(p) for p in model.parameters()] == identities
    assert isinstance(model[1], nn.GroupNorm) and model[1].num_groups == 6
    assert model[1].weight not in optimizer.state and model[0].weight in optimizer.state
    plan = deniable.Plan(examples=10, batch_size=5, steps=1, noise_multiplier=1.0, delta=1e-3)
    deniable.attach(model, optimizer, plan).detach()


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (7, 1), (10, 5), (32, 16), (64, 32)])
def test_no_group_is_a_single_channel_where_that_can_be_helped(channels: int, groups: int) -> None:
    """A group of one channel without spatial extent would be all zeros."""
    model = nn.Sequential(nn.BatchNorm1d(channels))
    deniable.replace_batchnorm(model)
    assert model[0].num_groups == groups


# -- what the loss is called with ----------------------------------------------------------------


def test_a_dictionary_goes_to_the_loss_whole_as_in_the_loop() -> None:
    inputs, labels = batch_of()

    def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return class_loss(model, batch["inputs"]["x"], batch["labels"])

    batch = {"inputs": {"x": inputs}, "labels": labels, "name": "a batch", "scale": torch.ones(())}
    assert deniable.check(nn.Linear(4, 3), loss, batch).rows == 6
    assert deniable.check(nn.Linear(4, 3), loss, UserDict(batch), rows=3).rows == 3

    def centred(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        x = batch["inputs"]["x"]
        return class_loss(model, x - x.mean(0), batch["labels"])

    with pytest.raises(CaptureError, match="The rows of a batch meet"):
        deniable.check(nn.Linear(4, 3), centred, batch)


def test_a_single_tensor_goes_to_the_loss_whole() -> None:
    def loss(model: nn.Module, inputs: Tensor) -> Tensor:
        return model(inputs).square().sum(1).mean()

    assert deniable.check(nn.Linear(4, 3), loss, batch_of()[0]).rows == 6


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        ((torch.randn(8, 4), torch.arange(3)), r"got \[3, 6\]"),
        ((torch.randn(1, 4), torch.arange(1)), r"got \[1\]"),
        ((), "got no tensor"),
    ],
)
def test_a_batch_in_which_no_two_rows_can_be_found_is_refused(batch: Any, got: str) -> None:
    with pytest.raises(CaptureError, match=rf"at least 2 rows, .*; {got}"):
        deniable.check(nn.Linear(4, 3), class_loss, batch)


class Weighted(nn.Module):
    """A loss that is a module, with weights in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), reduction="none")

    def forward(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return self.inner(model(inputs), labels).mean()


def test_a_loss_that_is_a_module_is_taken_to_float64_and_left_as_it_was() -> None:
    loss = Weighted()
    assert deniable.check(nn.Linear(4, 3), loss, batch_of()).rows == 6
    assert loss.inner.weight is not None
    assert loss.inner.weight.dtype == torch.float32


def test_a_constant_of_another_precision_is_named_with_its_mend() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])

    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(inputs), labels, weights, reduction="none").mean()

    def followed(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        out = model(inputs)
        return F.cross_entropy(out, labels, weights.to(out), reduction="none").mean()

    with pytest.raises(CaptureError, match=r"check computes in float64.*weights\.to\(outputs\)"):
        deniable.check(nn.Linear(4, 3), loss, batch_of())
    assert deniable.check(nn.Linear(4, 3), followed, batch_of()).rows == 6


def test_other_errors_of_the_loss_are_its_own() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        deniable.check(nn.Linear(5, 3), class_loss, batch_of())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": None}, "needs a torch Module, got None"),
        ({"model": nn.Linear(4, 3).requires_grad_(False)}, "no trainable parameter"),
        ({"loss": nn.CrossEntropyLoss()}, "with the model in it: give a function"),
        ({"loss": F.cross_entropy}, "not cross_entropy"),
        ({"loss": lambda *given: class_loss(*given).item()}, r"without \.item\(\) or detach"),
        ({"batch": None}, r"of type NoneType\. Of a loader, give next"),
        ({"loss_reduction": "average"}, "'mean' or 'sum', got 'average'"),
    ],
)
def test_what_check_cannot_take_is_refused_with_the_mend(given: dict[str, Any], says: str) -> None:
    usual = {"model": nn.Linear(4, 3), "loss": class_loss, "batch": batch_of()}
    with pytest.raises(CaptureError, match=says):
        deniable.check(**(usual | given))
