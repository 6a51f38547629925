"""What is known of a model's calls: where the rows of a batch lie in what each of them met."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from deniable.errors import CaptureError
from deniable.gradients.calls import AGAIN, ForwardCall, Key, describe
from deniable.gradients.layout import Fold, Layout
from deniable.gradients.probe import Seen, Verdict

Trail = set[tuple[str, str]]
"""Which call followed which, by name."""


class Verdicts:
    """Found by running the model again with rows replaced: when, and what was found.

    Args:
        run_again: probes a forward; told which calls are wanted, and what led to them.
        trail: what has led to the call that is asked for.
        alone: whether this process can run the model again whenever it likes.

    Attributes:
        known: by call.
        carried: attributes of modules in which rows of a batch are left.
    """

    def __init__(
        self,
        run_again: Callable[[ForwardCall, Iterable[Key], Trail], Seen],
        trail: Callable[[], Trail],
        alone: bool,
    ) -> None:
        self._run_again, self._trail, self._alone = run_again, trail, alone
        self.known: dict[Key, Verdict] = {}
        self.carried: set[tuple[nn.Module, str]] = set()
        self._trails: Trail = set()
        self._turned: set[str] | None = None
        self._forwards, self._due = 0, 1

    @property
    def are_none(self) -> bool:
        """Whether no forward was over yet."""
        return not self._forwards

    @property
    def any_settled(self) -> bool:
        """Whether any forward was run again until its calls were settled."""
        return bool(self._trails)

    def of(self, key: Key, forward: ForwardCall) -> Verdict | None:
        """What is known of a call; the model is run again where that is nothing yet."""
        if key not in self.known:
            self._find_now(key, forward)
        return self.known.get(key)

    def located(self, key: Key, index: int) -> Layout | None:
        """Where a call's tensor was found to hold its units; None where it never moved.

        Raises:
            CaptureError: the call runs several times, in ways that cannot be told apart.
        """
        known = self.known.get(key)
        if known is not None and known.several:
            raise CaptureError(
                f"{describe(key)} runs several times under checkpoint(use_reentrant=True), with "
                "rows in different places, and which one runs again cannot be told. Give "
                "checkpoint use_reentrant=False."
            )
        return known.layouts[index] if known is not None else None

    def located_anew(
        self, key: Key, index: int, found: list[Layout], forward: ForwardCall
    ) -> Layout | None:
        """The same for a tensor that can have the layouts `found`, and not the one known.

        Raises:
            CaptureError: the call cannot be found again.
        """
        plain = [each for each in found if each.fold is Fold.PLAIN]
        if self.located(key, index) is None and len(plain) > 1:
            self._find_now(key, forward)
        known = self.located(key, index)
        if known is None:
            if len(found) == 1 or key in self.known:
                return plain[0] if len(plain) == 1 else None
            raise CaptureError(
                f"{describe(key)} did not happen again when the "
                "model ran twice on the same batch, so its batch dimension could not be found. "
                "Make the order of calls in forward depend on nothing but the batch's shape."
            )
        self._find_now(key, forward)
        layout = self.located(key, index)
        return layout if layout in found else None

    def find(self, forward: ForwardCall, wanted: Iterable[Key], trail: Trail) -> None:
        """Run a forward again for the calls that are wanted, and keep what is found."""
        forward.probed = True
        forward.asked.update(wanted)
        seen = self._run_again(forward, wanted, trail)
        for key, found in seen.verdicts.items():
            again = key[0] == AGAIN and key in self.known
            self.known[key] = found.beside(self.known[key]) if again else found
        self.carried |= seen.carried
        if seen.settled:
            self._trails |= trail | seen.trail

    def are_due(
        self, forward: ForwardCall, calls: Iterable[Key], trail: Trail, turned: set[str]
    ) -> bool:
        """Whether to run a forward again that is over: of a new kind, or the 1st, 4th, 16th, ...

        Layouts are kept by call: they hold where rows lie in the arguments, and which dimensions
        are turned within, as in the forward before.
        """
        if forward.rows <= 1:
            return False
        self._forwards += 1
        due = self._forwards >= self._due
        self._due *= 4 if due else 1
        before, self._turned = self._turned, turned
        new = any(key not in self.known for key in calls) or not trail <= self._trails
        return new or before not in (None, turned) or (due and not forward.probed)

    def _find_now(self, key: Key, forward: ForwardCall) -> None:
        """Run a forward again for one call; once, since a second time would show the same."""
        if key in forward.asked:
            return
        forward.asked.add(key)
        if not self._alone:
            raise CaptureError(
                f"{describe(key)} was not met when the model was first run, so its batch dimension "
                "is not known, and one rank cannot run a sharded model again by itself. Make the "
                "calls in forward the same for every batch, whatever its length."
            )
        self.find(forward, [key], self._trail())
