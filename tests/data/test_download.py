"""The downloader, against a server that misbehaves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from deniable.data.download import Patience, fetch
from deniable.errors import DataError


def part(folder: Path) -> Path:
    return folder / "a.bin.part"


def test_a_download_ends_with_the_published_bytes_and_nothing_else(
    server: Any, hasty: Patience, tmp_path: Path
) -> None:
    path = fetch(server.file(), tmp_path / "new" / "folder", patience=hasty)
    assert path.read_bytes() == server.content
    assert not part(path.parent).exists()


def test_progress_is_told_up_to_the_last_byte(server: Any, hasty: Patience, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    fetch(server.file(), tmp_path, patience=hasty, progress=lambda *each: told.append(each))
    assert told[-1] == ("a.bin", len(server.content), len(server.content))
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


def test_a_file_that_is_there_is_not_asked_for_again(
    server: Any, hasty: Patience, tmp_path: Path
) -> None:
    fetch(server.file(), tmp_path, patience=hasty)
    fetch(server.file(), tmp_path, patience=hasty)
    assert len(server.ranges) == 1


def test_a_connection_that_is_cut_off_is_continued_where_it_ended(
    server: Any, hasty: Patience, tmp_path: Path
) -> None:
    server.script = ["cut", "cut"]
    path = fetch(server.file(), tmp_path, patience=hasty)
    half = len(server.content) // 2
    assert path.read_bytes() == server.content
    assert server.ranges == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_a_connection_that_is_always_cut_off_is_given_up_and_kept(
    server: Any, hasty: Patience, tmp_path: Path
) -> None:
    server.script = ["cut"] * 3
    with pytest.raises(DataError, match=r"given up after 3 attempts; .* cut off at") as error:
        fetch(server.file(), tmp_path, patience=hasty)
    kept = part(tmp_path).stat().st_size
    assert f"{kept:,} bytes are kept" in str(error.value)
    assert fetch(server.file(), tmp_path, patience=hasty).read_bytes() == server.content
    assert server.ranges[-1] == f"bytes={kept}-"


def test_a_server_without_ranges_begins_anew(server: Any, hasty: Patience, tmp_path: Path) -> None:
    server.script = ["cut", "deaf"]
    assert fetch(server.file(), tmp_path, patience=hasty).read_bytes() == server.content


def test_a_server_that_sends_another_range_is_refused(
    server: Any, hasty: Patience, tmp_path: Path
) -> None:
    server.script = ["cut", "shifted"]
    with pytest.raises(DataError, match="another part of the file"):
        fetch(server.file(), tmp_path, patience=hasty)


def test_wrong_bytes_never_reach_the_target(server: Any, hasty: Patience, tmp_path: Path) -> None:
    server.script = ["wrong"]
    with pytest.raises(DataError, match=r"SHA-256 is \w{64}, expected \w{64}"):
        fetch(server.file(), tmp_path, patience=hasty)
    assert not (tmp_path / "a.bin").exists()
    assert part(tmp_path).stat().st_size == 0


def test_a_spoiled_part_of_an_earlier_run_is_thrown_away(
    server: Any, hasty: Patience, tmp_path: Path
) -> None:
    part(tmp_path).write_bytes(b"spoiled")
    assert fetch(server.file(), tmp_path, patience=hasty).read_bytes() == server.content
    assert server.ranges == ["bytes=7-", None]


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_part_of_full_size_or_more_is_not_continued(
    server: Any, hasty: Patience, tmp_path: Path, extra: bytes
) -> None:
    part(tmp_path).write_bytes(server.content + extra)
    assert fetch(server.file(), tmp_path, patience=hasty).read_bytes() == server.content
    assert server.ranges == ([None] if extra else [])


def test_a_page_in_place_of_the_file_is_noticed_by_its_size(
    server: Any, hasty: Patience, tmp_path: Path
) -> None:
    server.script = ["page"]
    with pytest.raises(DataError, match="announces 6 bytes"):
        fetch(server.file(), tmp_path, patience=hasty)


def test_404_is_said_and_not_tried_again(server: Any, hasty: Patience, tmp_path: Path) -> None:
    server.script = ["404"]
    with pytest.raises(DataError, match=r"a\.bin: the server answered 404 Not Found") as error:
        fetch(server.file(), tmp_path, patience=hasty)
    assert len(server.ranges) == 1
    assert f"put it into {tmp_path}" in str(error.value)


@pytest.mark.parametrize("status", ["416", "429", "500", "503"])
def test_a_passing_refusal_is_tried_again(
    server: Any, hasty: Patience, tmp_path: Path, status: str
) -> None:
    server.script = ["cut", status]
    assert fetch(server.file(), tmp_path, patience=hasty).read_bytes() == server.content


def test_the_next_address_is_tried_and_every_failure_listed(
    server: Any, hasty: Patience, tmp_path: Path
) -> None:
    server.script = ["404", "wrong", "whole"]
    path = fetch(server.file("one", "two", "three"), tmp_path, patience=hasty)
    assert path.read_bytes() == server.content

    path.unlink()
    server.script = ["404", "403"]
    with pytest.raises(DataError, match=r"(?s)one: .*404.*two: .*403"):
        fetch(server.file("one", "two"), tmp_path, patience=hasty)


def test_a_silent_server_is_given_up(server: Any, hasty: Patience, tmp_path: Path) -> None:
    server.script = ["silent"] * 3
    with pytest.raises(DataError, match=r"nothing came for 0\.3 seconds"):
        fetch(server.file(), tmp_path, patience=hasty)


def test_a_trickle_is_given_up_although_bytes_keep_coming(
    server: Any, hasty: Patience, tmp_path: Path
) -> None:
    server.script = ["trickle"] * 3
    with pytest.raises(DataError, match="too slow"):
        fetch(server.file(), tmp_path, patience=hasty)


def test_a_server_that_never_stops_is_stopped_at_the_published_size(
    server: Any, hasty: Patience, tmp_path: Path
) -> None:
    server.script = ["endless"]
    assert fetch(server.file(), tmp_path, patience=hasty).read_bytes() == server.content


def test_a_server_that_is_not_there_is_said_at_once(
    server: Any, hasty: Patience, tmp_path: Path
) -> None:
    file = server.file()
    closed = type(file)(file.name, file.size, file.sha256, ("http://127.0.0.1:1/a.bin",))
    with pytest.raises(DataError, match="no connection"):
        fetch(closed, tmp_path, patience=Patience(pause=1000))


def test_a_folder_that_cannot_be_written_is_said(
    server: Any, hasty: Patience, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        fetch(server.file(), tmp_path / "file" / "folder", patience=hasty)


def test_two_at_once_share_one_download(server: Any, hasty: Patience, tmp_path: Path) -> None:
    paths: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda: paths.append(fetch(server.file(), tmp_path, patience=hasty))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in paths] == [server.content] * 4
    assert len(server.ranges) == 1
