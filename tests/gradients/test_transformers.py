"""Hugging Face models, built from a configuration, with their own loss outputs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from oracles.gradients import clipped_sum, relative_error
from oracles.release import released_sum

WORDS, CLASSES = 30, 3


def gpt2() -> nn.Module:
    """A causal language model, its token table tied to its output."""
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=8, n_embd=8, n_layer=2, n_head=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).train()
    assert model.lm_head.weight is model.transformer.wte.weight
    return model


def bert() -> nn.Module:
    """A classifier of whole sequences."""
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, num_labels=CLASSES,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).train()


def own_loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    loss: Tensor = model(input_ids=ids, labels=labels).loss
    return loss


# GPT-2 computes its loss in float32, whatever the model's precision.
MODELS = {"GPT-2": (gpt2, 1e-6), "BERT": (bert, 1e-10)}


@pytest.mark.parametrize("rows", [None, 4], ids=["whole", "pieces of 4"])
@pytest.mark.parametrize("n", [1, 2, 6, 37])
@pytest.mark.parametrize("name", MODELS)
def test_a_transformers_model_equals_the_oracle(name: str, n: int, rows: int | None) -> None:
    """Six rows are as many as tokens. Pitfall: users 3."""
    build, tolerance = MODELS[name]
    torch.manual_seed(n)
    model = build().double()
    ids = torch.randint(WORDS, (n, 6))
    batch = (ids, ids.clone() if name == "GPT-2" else torch.randint(CLASSES, (n,)))
    expected = clipped_sum(model, batch, own_loss, 0.5)
    found = released_sum(copy.deepcopy(model), batch, own_loss, 0.5, rows=rows)
    assert relative_error(found, expected) < tolerance
