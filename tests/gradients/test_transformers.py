"""Hugging Face models, built from a configuration, with their own loss outputs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oracles.gradients import clipped_sum, relative_error
from oracles.release import released_sum

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers itself


def gpt2() -> nn.Module:
    """Token table tied to the output, as GPT-2 is."""
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=8, n_embd=8, n_layer=2, n_head=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).train()


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).train()


def own_loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    loss: Tensor = model(input_ids=ids, labels=labels).loss
    return loss


@pytest.mark.parametrize("n", [1, 2, 6, 11])
@pytest.mark.parametrize("build", [gpt2, bert], ids=["GPT-2", "BERT"])
def test_a_transformers_model_equals_the_oracle(build: Any, n: int) -> None:
    """Pitfall: users 3."""
    torch.manual_seed(n)
    model = build().double()
    ids = torch.randint(30, (n, 6))
    batch = (ids, ids.clone() if build is gpt2 else torch.randint(3, (n,)))
    expected = clipped_sum(model, batch, own_loss, 0.5)
    found = released_sum(copy.deepcopy(model), batch, own_loss, 0.5, rows=8)
    # GPT-2 computes its loss in float32, whatever the model's precision.
    assert relative_error(found, expected) < (1e-6 if build is gpt2 else 1e-10)
