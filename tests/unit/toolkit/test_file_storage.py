"""FileStorage: what authors rely on, and what befalls folders."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import threading
from enum import Enum
from pathlib import Path

import pytest

from taskstream.dataobjects import dataobject
from taskstream.errors import ValidationError
from taskstream.toolkit.storage import fs
from taskstream.toolkit.storage.fs import FileStorage


class Status(Enum):
    NEW = "NEW"
    PROCESSED = "PROCESSED"


@dataobject
class Note:
    text: str
    status: Status


NOTE = Note("valid text", Status.PROCESSED)


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_path_and_the_form_are_those_of_the_tutorial(tmp_path: Path) -> None:
    path = asyncio.run(FileStorage(path="processed_messages").store(key="1683ec54", value=NOTE))
    assert path == "processed_messages/1683ec54.json"
    assert (tmp_path / path).read_text() == '{"text": "valid text", "status": "PROCESSED"}'


def test_values_come_back_and_go(tmp_path: Path) -> None:
    storage = FileStorage(path=tmp_path / "deep" / "notes")

    async def use() -> None:
        assert await storage.list() == []
        assert await storage.get("a", Note) is None
        await storage.store("b", {"plain": [1, 2.5, None, "ü"]})
        await storage.store("a", NOTE)
        await storage.store("a", Note("later", Status.NEW))
        assert await storage.get("a", datatype=Note) == Note("later", Status.NEW)
        assert await storage.get("b", dict) == {"plain": [1, 2.5, None, "ü"]}
        assert await storage.list() == ["a", "b"]
        assert await storage.delete("a") is True
        assert await storage.delete("a") is False
        assert await storage.list() == ["b"]

    asyncio.run(use())


def test_def_steps_have_the_same_folder() -> None:
    storage = FileStorage(path="notes")
    assert storage.sync.store("a", NOTE) == "notes/a.json"
    assert storage.sync.get("a", Note) == NOTE
    assert asyncio.run(storage.get("a", Note)) == NOTE
    assert storage.sync.list() == ["a"]
    assert storage.sync.delete("a") is True
    assert storage.sync.delete("a") is False


@pytest.mark.parametrize(
    "key", ["", "../up", "a/b", "/etc/passwd", "a\\b", "a\0b", "a\nb", "\udc80", "x" * 251, "ü" * 126, None, 5]
)
def test_a_key_that_is_no_file_name_is_refused(key: object, tmp_path: Path) -> None:
    storage = FileStorage(path="notes")
    with pytest.raises(ValidationError, match="cannot be the name of a file") as raised:
        asyncio.run(storage.store(key, NOTE))  # type: ignore[arg-type]
    assert raised.value.errors.keys() == {"key"}
    for use in (
        storage.sync.delete,
        lambda name: storage.sync.get(name, Note),
        lambda name: storage.sync.store(name, 1),
    ):
        with pytest.raises(ValidationError):
            use(key)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", [".", "..", "...", ".hidden", "a b", "ü", "a.tmp", "a.json", "-", "x" * 250, "ü" * 125])
def test_any_other_key_is_a_file_of_the_folder(key: str, tmp_path: Path) -> None:
    storage = FileStorage(path="notes")
    asyncio.run(storage.store(key, NOTE))
    assert storage.sync.get(key, Note) == NOTE
    assert storage.sync.list() == [key]
    assert [path.name for path in (tmp_path / "notes").iterdir()] == [f"{key}.json"]


def test_a_value_json_cannot_carry_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        asyncio.run(FileStorage(path="notes").store("a", object()))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_holds_something_else_is_a_clear_error(tmp_path: Path) -> None:
    storage = FileStorage(path="notes")
    storage.sync.store("a", {"text": 5})
    with pytest.raises(ValidationError, match=r"notes/a\.json"):
        storage.sync.get("a", Note)
    (tmp_path / "notes" / "a.json").write_text("{")
    with pytest.raises(ValidationError, match=r"notes/a\.json"):
        asyncio.run(storage.get("a", Note))


def test_a_folder_deleted_underneath_is_made_again(tmp_path: Path) -> None:
    storage = FileStorage(path="notes")

    async def use() -> None:
        await storage.store("a", NOTE)
        shutil.rmtree(tmp_path / "notes")
        assert await storage.list() == []
        assert await storage.store("b", NOTE) == "notes/b.json"

    asyncio.run(use())
    assert storage.sync.list() == ["b"]


def test_what_a_dead_process_left_is_not_listed(tmp_path: Path) -> None:
    storage = FileStorage(path="notes")
    storage.sync.store("a", NOTE)
    (tmp_path / "notes" / ".0192-left.tmp").write_text("{")
    (tmp_path / "notes" / "folder.json").mkdir()
    assert storage.sync.list() == ["a"]


def test_a_full_disk_leaves_the_old_value_and_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FileStorage(path="notes")
    storage.sync.store("a", NOTE)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            storage.sync.store("a", {"other": 1})
    assert storage.sync.get("a", Note) == NOTE
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.json"]


def test_one_refused_file_of_a_batch_concerns_only_its_caller(tmp_path: Path) -> None:
    storage = FileStorage(path="notes")
    (tmp_path / "notes" / "taken.json").mkdir(parents=True)

    async def use() -> list[object]:
        keys = [*(str(number) for number in range(50)), "taken", *(str(number) for number in range(50, 100))]
        return await asyncio.gather(*(storage.store(key, NOTE) for key in keys), return_exceptions=True)

    found = asyncio.run(use())
    assert isinstance(found.pop(50), OSError)
    assert found == [f"notes/{number}.json" for number in range(100)]
    assert len(storage.sync.list()) == 100


def test_a_slow_disk_does_not_hold_up_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FileStorage(path="notes")
    slow, original = threading.Event(), fs.write_whole

    def put(*arguments: str) -> None:
        assert slow.wait(30)
        original(*arguments)

    monkeypatch.setattr(fs, "write_whole", put)

    async def use() -> None:
        stores = [asyncio.ensure_future(storage.store(str(number), NOTE)) for number in range(300)]
        stores[5].cancel()
        for _ in range(100):
            await asyncio.sleep(0)  # the loop goes on while nothing can be written
        assert sum(store.done() for store in stores) == 1
        slow.set()
        done = await asyncio.gather(*stores, return_exceptions=True)
        assert sum(isinstance(one, str) for one in done) == 299

    asyncio.run(use())


def test_stores_that_follow_one_another_never_hang() -> None:
    """A burst that comes just when the last writer ended starts a new one."""
    storage = FileStorage(path="notes")

    async def lane(number: int) -> None:
        for turn in range(20):
            await storage.store(f"{number}-{turn}", turn)

    async def use() -> None:
        await asyncio.wait_for(asyncio.gather(*(lane(number) for number in range(50))), 60)

    asyncio.run(use())
    assert len(storage.sync.list()) == 1000


def test_one_storage_serves_several_event_loops_at_once() -> None:
    storage = FileStorage(path="notes")
    problems: list[BaseException] = []

    def run(number: int) -> None:
        async def use() -> None:
            await asyncio.gather(*(storage.store(f"{number}-{turn}", turn) for turn in range(50)))

        try:
            asyncio.run(use())
            asyncio.run(use())
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert len(storage.sync.list()) == 200


def test_readers_never_see_half_a_file() -> None:
    storage = FileStorage(path="notes")
    storage.sync.store("a", "x" * 200_000)
    end = threading.Event()
    seen: list[BaseException] = []

    def read() -> None:
        while not end.is_set():
            try:
                assert len(json.loads(Path("notes/a.json").read_bytes())) == 200_000
            except BaseException as problem:
                seen.append(problem)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for letter in "abcdefghij" * 10:
        storage.sync.store("a", letter * 200_000)
    end.set()
    reader.join(30)
    assert seen == []
