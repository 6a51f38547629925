"""The bound parameters, and those that forward derives from them alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from deniable.errors import CaptureError
from deniable.gradients.tree import tensors_in
from deniable.gradients.whose import version

Function = Callable[..., Any]


@dataclass(eq=False)
class Derived:
    """A function of bound parameters and constants alone, treated as a parameter of its own.

    Attributes:
        names: the bound parameters that it is computed from.
        random: the state of torch's generator when it was called, if it drew from that.
        versions: of the tensors among its arguments, when it was called.
    """

    value: Tensor
    function: Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: int | None
    names: tuple[str, ...]
    random: Tensor | None
    versions: list[tuple[Tensor, int]]


class BoundParameters:
    """Whose per-unit gradients are wanted: a model's parameters, and what is derived from them.

    Args:
        parameters: the model's, by name.

    Attributes:
        names: of the model's parameters, by identity.
        derived: of the open piece, in the order in which they were made.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.names = {id(parameter): name for name, parameter in parameters.items()}
        self.forget()

    def forget(self) -> None:
        """Nothing is derived any more."""
        self.derived: list[Derived] = []
        self._known: dict[int, str | Derived] = dict(self.names)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What is derived within is forgotten at the end; what was derived before is not known."""
        before = self.derived, self._known
        self.forget()
        try:
            yield
        finally:
            self.derived, self._known = before

    def holds(self, argument: object) -> bool:
        """Whether an argument is a bound parameter, or derived from such."""
        return id(argument) in self._known

    def known_as(self, argument: object) -> str | Derived | None:
        """The name of a bound parameter, or the derived parameter, that an argument is."""
        return self._known.get(id(argument))

    def names_of(self, argument: object) -> tuple[str, ...]:
        """The bound parameters behind one argument, by name; none if it is not bound."""
        known = self.known_as(argument)
        if known is None:
            return ()
        return (known,) if isinstance(known, str) else known.names

    def quoted(self, *arguments: Any) -> str:
        """The names of the bound parameters behind arguments of any shape, for a message."""
        names = {name for leaf in tensors_in(arguments) for name in self.names_of(leaf)}
        return ", ".join(map(repr, sorted(names)))

    def derive(
        self, result: Any, function: Function, args: Any, kwargs: Any, random: Tensor | None
    ) -> Any:
        """Make each result of a function of parameters alone a parameter of its own."""
        if isinstance(result, Tensor):
            return self._derive(result, function, args, kwargs, random, None)
        derived = [
            self._derive(each, function, args, kwargs, random, k)
            if isinstance(each, Tensor) and (each.is_floating_point() or each.is_complex())
            else each
            for k, each in enumerate(result)
        ]
        return type(result)(derived)

    def _derive(
        self, value: Tensor, function: Function, args: Any, kwargs: Any, random: Tensor | None,
        output: int | None,
    ) -> Tensor:  # fmt: skip
        leaf, leaves = value.detach().requires_grad_(), tensors_in(args, kwargs)
        names = tuple(name for each in leaves for name in self.names_of(each))
        quoted = " and ".join(sorted({f"'{name}'" for name in names}))

        def raise_escape(_: Tensor) -> None:
            raise CaptureError(
                f"A gradient reached a value computed from parameter {quoted} alone by a path that "
                "the per-unit rules did not see (a penalty on weights, say). Use the optimizer's "
                "weight_decay, which costs no privacy, or move the computation into forward."
            )

        leaf.register_hook(raise_escape)  # type: ignore[no-untyped-call]
        versions = [(each, version(each)) for each in leaves]
        derived = Derived(leaf, function, args, kwargs, output, names, random, versions)
        self._known[id(leaf)] = derived
        self.derived.append(derived)
        return leaf
