"""One call that took bound parameters: what it met, and what its gradients factor into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deniable.errors import CaptureError
from deniable.gradients import fallback
from deniable.gradients.calls import ForwardCall, Key, describe
from deniable.gradients.contributions import Contribution, exactly
from deniable.gradients.layout import WHOLE, Layout, candidates
from deniable.gradients.parameters import Function
from deniable.gradients.rules import RULES
from deniable.gradients.tree import tensors_in

if TYPE_CHECKING:
    from deniable.gradients.capture import Capture
    from deniable.gradients.whose import Met


@dataclass(eq=False)
class Use:
    """One call of a torch function that took bound parameters and data.

    Attributes:
        n: units in the batch.
        twin: a linear layer whose input has the same leading dimensions as this one's.
        outputs: how many outputs the call has.
        position: of the output whose gradient is dealt with.
        spent: whether a backward pass has used up what the call met.
        met: whose the data are, where the model moved rows.
    """

    capture: Capture
    function: Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    n: int
    key: Key
    forward: ForwardCall
    twin: Use | None = None
    outputs: int = 1
    position: int = 0
    spent: bool = False
    met: Met | None = None
    versions: list[tuple[Tensor, int]] = field(default_factory=list)

    def receive(self, position: int, grad: Tensor) -> None:
        """Take the gradient of one output: what a per-unit rule makes of it goes to the capture."""
        if not self.capture.receiving(self, grad.device):
            return
        self.position = position
        if self.spent:
            raise CaptureError(
                f"A second backward pass ran through {describe(self.key)}. Pass retain_graph=True "
                "to the first one."
            )
        if self.n:
            self._unchanged()
            self._owned(grad)
            if self.capture.rounds:
                with exactly(grad.device):
                    self._deliver(position, grad)
            else:
                self._deliver(position, grad)
        if self.outputs == 1 and not torch._C._autograd._get_current_graph_task_keep_graph():
            self.args, self.kwargs, self.versions = (), {}, []  # let the activations go
            self.spent = True

    def _deliver(self, position: int, grad: Tensor) -> None:
        for argument, contribution in self._contributions(position, grad):
            self.capture.add(argument, contribution)

    def beside(self, input: Tensor, *parameters: Tensor | None) -> Callable[[Tensor], None]:
        """Note a linear layer that an opened function computed by itself, on data laid out alike.

        Returns:
            What takes the gradient of that layer's output, once it is known.
        """
        args = (input, *parameters)
        use = Use(self.capture, F.linear, args, {}, self.n, self.key, self.forward, self)
        return partial(use.receive, 0)

    def is_bound(self, argument: object) -> bool:
        """Whether per-unit gradients of this argument are wanted."""
        return self.capture.bound.holds(argument)

    def layout(self, tensor: Tensor, features: int = 0) -> Layout:
        """Where the units lie in a tensor of this call (an argument, or the output's gradient)."""
        if self.n == 1:
            return WHOLE
        if self.twin is not None:
            return self.twin.layout(self.twin.args[0], features=1)
        if self.met is not None:
            whose = self.met.data.get(id(tensor), self.met.output)
            if whose.dim >= tensor.ndim - features:
                raise self._mismatch(tensor)
            return whose
        index = self._index(tensor)
        layout = self.capture.verdicts.located(self.key, index)
        if layout is not None and layout.fits(tensor, self.n, features):
            return layout
        found = candidates(tensor, self.n, features)
        layout = self.capture.verdicts.located_anew(self.key, index, found, self.forward)
        if layout is None:
            raise self._mismatch(tensor)
        return layout

    def _mismatch(self, tensor: Tensor) -> CaptureError:
        return self.error(
            f"none of the dimensions {tuple(tensor.shape)} of its data could be matched with "
            f"the batch's {self.n} rows. Keep one dimension of the data as the batch"
        )

    def _index(self, tensor: Tensor) -> int:
        """The place of a tensor among the data of this call, or else of its output."""
        k = 0
        for leaf in tensors_in(self.args, self.kwargs):
            if leaf is tensor:
                return k
            k += not self.is_bound(leaf)
        return k + self.position

    def units(self, tensor: Tensor, like: Tensor | None = None, features: int = 0) -> Tensor:
        """The tensor with units first: `(n, ..., *features)`."""
        return self.layout(tensor if like is None else like, features).split(tensor, self.n)

    def positions(self, tensor: Tensor, like: Tensor | None = None, features: int = 1) -> Tensor:
        """The tensor as `(n, T, *features)`: every dimension before the features folded into T."""
        split = self.units(tensor, like, features)
        return split.reshape(self.n, -1, *split.shape[split.ndim - features :])

    def aligned(self, input: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Input and output gradient of a layer that mixes the last dimension, as `(n, T, ...)`."""
        layout = self.layout(input, features=1)
        return self._folded(layout.split(input, self.n)), self._folded(layout.split(grad, self.n))

    def _folded(self, split: Tensor) -> Tensor:
        """Units first, their other dimensions but the last as one."""
        return split if split.ndim == 3 else split.reshape(self.n, -1, split.shape[-1])

    def by_vmap(self, grad: Tensor, position: int = 0) -> Iterator[tuple[Any, Contribution]]:
        """Per-unit gradients of this one call by `torch.func.vmap`, whatever the function."""
        return fallback.per_unit_gradients(self, position, grad)

    def _unchanged(self) -> None:
        for tensor, version in self.versions:
            if tensor._version != version:
                raise self.error(
                    "its input was modified in place after the call, so its gradient cannot be "
                    "computed any more. Use the out-of-place form of the later operation"
                )

    def _owned(self, grad: Tensor) -> None:
        """Nothing may be lost at places that belong to no row, such as padding."""
        met = self.met if self.twin is None else self.twin.met
        if met is None or met.output.in_order:
            return
        strays = grad.movedim(met.output.dim, 0)[met.output.rows < 0]
        if bool(strays.any()):
            raise self.error(
                "a gradient arrived at places that belong to no row of the batch (padding, say), "
                "so it is no unit's. Leave these places out of the loss"
            )

    def _contributions(self, position: int, grad: Tensor) -> Iterable[tuple[Any, Contribution]]:
        rule = RULES.get(self.function)
        if rule is None or self.outputs > 1 or grad.is_complex():
            return self.by_vmap(grad, position)
        return rule(self, grad, *self.args, **self.kwargs)

    def error(self, problem: str) -> CaptureError:
        """An error that names the parameters and modules of this use."""
        return CaptureError(
            f"{getattr(self.function, '__name__', self.function)} on parameter "
            f"{self.capture.bound.quoted(self.args, self.kwargs)}: {problem}."
        )


class Source(torch.autograd.Function):
    """An output that depends on no data with a gradient: joins autograd's graph to get its own."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, output: Callable[[], Tensor], use: Use, position: int
    ) -> Tensor:
        """The output itself."""
        ctx.use, ctx.position = use, position
        return output()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None, None]:
        """Keep the gradient of the output."""
        ctx.use.receive(ctx.position, grad)
        return None, None, None, None
