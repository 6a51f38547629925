"""Other people's trainers: the same weights as from a loop written by hand.

They are no dependency: `pip install accelerate lightning` runs these.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import deniable

EXAMPLES, EPOCHS = 60, 2
Fit = Callable[[nn.Module, torch.optim.Optimizer, Any], None]


class Words(Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        self.words = torch.randint(20, (EXAMPLES, 6), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "labels": self.words[index]}


def trained(model: nn.Module, fit: Fit) -> list[Tensor]:
    """The weights after all epochs of a plan, with the same draws and the same noise each time."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    plan = deniable.Plan(EXAMPLES, 20, epochs=EPOCHS, noise_multiplier=1.0, delta=1e-3)
    private = deniable.attach(model, optimizer, plan, seed=1)
    fit(model, optimizer, private)
    assert private.steps == plan.steps
    private.detach()
    return [each.detach() for each in model.parameters()]


def assert_same(some: list[Tensor], others: list[Tensor]) -> None:
    for each, other in zip(some, others, strict=True):
        torch.testing.assert_close(each, other)


def test_a_trainer_of_transformers_trains_as_a_loop_does(tmp_path: Path) -> None:
    """Pitfall: users 3."""
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")
    import transformers

    def gpt2() -> nn.Module:
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=20, n_positions=6, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
            eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config)

    def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, private: Any) -> None:
        for batch in private.batches(Words()):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def by_trainer(model: Any, optimizer: torch.optim.Optimizer, private: Any) -> None:
        class Private(transformers.Trainer):
            def get_train_dataloader(self) -> Any:
                return private.loader(Words())

        settings = transformers.TrainingArguments(
            output_dir=str(tmp_path), num_train_epochs=EPOCHS, max_grad_norm=0.0, use_cpu=True,
            lr_scheduler_type="constant", save_strategy="no", report_to=[], disable_tqdm=True,
        )  # fmt: skip
        Private(model, settings, optimizers=(optimizer, None)).train()

    assert_same(trained(gpt2(), by_hand), trained(gpt2(), by_trainer))


def test_lightning_trains_as_a_loop_does(tmp_path: Path) -> None:
    """Its optimization is by closures, and it validates in between. Pitfall: users 3."""
    lightning = pytest.importorskip("lightning")
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(EXAMPLES, 4, generator=generator), torch.arange(EXAMPLES) % 3

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs)

        def training_step(self, batch: Any, _: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.optimizer

    def module() -> nn.Module:
        torch.manual_seed(0)
        return Module()

    def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, private: Any) -> None:
        for inputs, labels in private.batches(data):
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    def by_trainer(model: Any, optimizer: torch.optim.Optimizer, private: Any) -> None:
        model.optimizer = optimizer
        validation = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data))
        trainer = lightning.Trainer(
            max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(model, private.loader(data), validation)

    assert_same(trained(module(), by_hand), trained(module(), by_trainer))
