"""One link, both of whose ends are threads of this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import TCPStore

from deniable.collaborate.links import COORDINATOR, HEAD, WORKER, Broken, Link, Message

SECONDS = 10.0
Pair = tuple[Link, Link]


@pytest.fixture(scope="module")
def joined() -> Iterator[Callable[[], Pair]]:
    """Makes links, each with its two ends."""
    store = TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=SECONDS)
    )
    made = iter(range(1_000_000))

    def join() -> Pair:
        name = f"link/{next(made)}"
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(Link, store.clone(), name, WORKER, SECONDS)  # type: ignore[attr-defined]
            return Link(store.clone(), name, COORDINATOR, SECONDS), other.result()  # type: ignore[attr-defined]

    yield join


def block(size: int) -> torch.Tensor:
    return torch.randint(256, (size,), dtype=torch.uint8)


messages = st.lists(
    st.builds(
        lambda size, words: Message({"kind": "x" * words}, block(size)),
        st.sampled_from([0, 0, 1, 7, 1_000, 1_000, 200_000]),
        st.sampled_from([1, 1, HEAD - 30, HEAD, 20_000]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(there=messages, back=messages)
def test_messages_of_any_sizes_arrive_as_they_were_sent(
    joined: Callable[[], Pair], there: list[Message], back: list[Message]
) -> None:
    coordinator, worker = joined()

    def answer() -> list[Message]:
        found = []
        for k in range(max(len(there), len(back))):
            if k < len(there):
                found.append(worker.receive())
            if k < len(back):
                worker.send(back[k])
        return found

    with ThreadPoolExecutor(1) as pool:
        other, mine = pool.submit(answer), []
        for k in range(max(len(there), len(back))):
            if k < len(there):
                coordinator.send(there[k])
            if k < len(back):
                mine.append(coordinator.receive())
        theirs = other.result(SECONDS)
    for sent, arrived in ((there, theirs), (back, mine)):
        assert [each.says for each in arrived] == [each.says for each in sent]
        assert all(torch.equal(a.block, b.block) for a, b in zip(sent, arrived, strict=True))
    assert coordinator.sent == worker.received
    assert worker.sent == coordinator.received


def test_a_block_of_the_usual_length_costs_its_bytes_and_one_head(
    joined: Callable[[], Pair],
) -> None:
    coordinator, worker = joined()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            arrived = pool.submit(worker.receive)
            coordinator.send(Message({}, block(5_000)))
            arrived.result(SECONDS)
    assert coordinator.sent == 3 * (HEAD + 5_000)


def test_what_is_sent_before_anybody_waits_for_it_arrives(joined: Callable[[], Pair]) -> None:
    coordinator, worker = joined()
    for each in (Message({"n": 1}, block(100)), Message({"n": 2}, block(100)), Message({"n": 3})):
        sent = coordinator.begin(coordinator.frames(each))
        assert worker.receive().says == each.says
        sent()


def test_nothing_is_sent_but_the_message(joined: Callable[[], Pair]) -> None:
    """What else lay in this process's memory may be private."""
    coordinator, _ = joined()
    torch.full((HEAD,), 255, dtype=torch.uint8)  # let go of at once
    for words in (1, HEAD - 40, HEAD):
        message = Message({"x": "w" * words}, block(5))
        frames = coordinator.frames(message)
        said = json.dumps(message.says).encode()
        head = frames[0][:HEAD].numpy().tobytes()
        assert head[16:].rstrip(b"\0") == (said if len(said) <= HEAD - 16 else b"")
        rest = [each for tag, each in frames.items() if tag]
        assert sum(map(len, rest)) == 5 + (len(said) if len(said) > HEAD - 16 else 0)


def test_an_end_that_lets_go_breaks_the_link(joined: Callable[[], Pair]) -> None:
    coordinator, worker = joined()
    threading.Timer(0.2, worker.close).start()
    with pytest.raises(Broken):
        coordinator.receive()
    with pytest.raises(Broken):
        worker.send(Message({}))
    with pytest.raises(Broken):
        worker.receive()
