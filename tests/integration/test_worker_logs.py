"""What an application's own loggers say in a worker, and modules that its app includes: real pools."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import Started, eventually

from taskstream import TaskFailed, Taskstream, keys
from taskstream.handler import QUEUE_GROUP

APP = """
import logging
import logging.config

from taskstream import Taskstream

{configure}
app = Taskstream("logshop", results="json://results", include=["logshop.tasks"])
"""

TASKS = """
import asyncio
import logging

import gevent

from logshop.app import app

logger = logging.getLogger(__name__)
logging.getLogger("logshop.fine").setLevel(logging.DEBUG)


class Bad(Exception):
    pass


@app.task
def talk(order: str) -> None:
    logger.info("Order %s | of two\\nlines", order, extra={"length": 3})
    logger.debug("not shown")
    logging.getLogger("logshop.fine").debug("fine enough")
    logging.getLogger("httpx").info("not shown")
    logging.getLogger("httpx").warning("slow")
    logger.info("%d orders", "many")
    gevent.spawn(lambda: logging.getLogger("elsewhere").warning("from a greenlet")).join()


@app.task
async def talk_later() -> None:
    await asyncio.sleep(0.001)
    logger.info("from the loop")
    await asyncio.to_thread(logger.info, "from its thread")


@app.task(bind=True, max_retries=1)
def unlucky(self, how: str) -> None:
    if how == "given":
        raise self.retry(exc=Bad("the bank is closed"), countdown=0)
    if how == "handled":
        try:
            raise KeyError("key")
        except KeyError:
            self.retry(countdown=0)
    self.retry(countdown=0)
"""

OWN_ROOT = """
logging.config.dictConfig({
    "version": 1,
    "formatters": {"own": {"format": "OWN %(levelname)s %(name)s %(message)s"}},
    "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "own"}},
    "root": {"level": "WARNING", "handlers": ["own"]},
})
"""


class Shop:
    """A package of two modules in a folder, its pool, and lines of that."""

    def __init__(self, folder: Path, url: str, start: Callable[..., Started], configure: str = "") -> None:
        self.folder, self.url, self._start = folder, url, start
        package = folder / "logshop"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "app.py").write_text(APP.format(configure=configure), encoding="utf-8")
        (package / "tasks.py").write_text(TASKS, encoding="utf-8")
        self.app = Taskstream("logshop", broker=url, results=f"json://{package / 'results'}")

    def pool(self, *options: str) -> Started:
        """A pool of one process."""
        words = ("--lease", "1", "--processes", "1", "--broker", self.url, *options)
        return self._start("worker", "-A", "logshop.app", *words, cwd=self.folder, env={"PYTHONWARNINGS": "error"})

    def send(self, task: str, *args: Any) -> Any:
        """Send a call; return its handle."""
        return self.app.send_task(f"logshop.{task}", args, headers={"request_id": "r1"})


@pytest.fixture
def make_shop(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Iterator[Callable[..., Shop]]:
    made: list[Shop] = []

    def make(configure: str = "") -> Shop:
        made.append(Shop(tmp_path, broker_url, start_cli, configure))
        return made[-1]

    yield make
    for one in made:
        one.app.close()


def test_records_of_any_logger_are_lines_that_say_which_message_ran(
    make_shop: Callable[..., Shop], redis_client: redis.Redis
) -> None:
    # Given: tasks in a module that the app includes, and calls of them
    shop = make_shop()
    pool = shop.pool()
    talk, later = shop.send("talk", "77"), shop.send("talk_later")
    unlucky = {how: shop.send("unlucky", how) for how in ("given", "handled", "plain")}
    talk.get(timeout=20)
    later.get(timeout=20)

    # Then: each record is one line under the task, with its message
    def found(text: str) -> str:
        (line,) = eventually(lambda: [line for line in pool.output.splitlines() if text in line])
        return str(line)

    end = rf"message\.id={talk.id} \| message\.attempt=1 \| track\.request_id=r1"
    assert re.fullmatch(
        rf"\S+ \S+ \| INFO \| logshop - talk \S+ \d+ \| Order 77 \\\| of two\\nlines \| extra\.length=3 \| "
        rf"logger=logshop\.tasks \| {end}",
        found("Order 77"),
    )
    assert "| WARNING |" in found("| slow | logger=httpx") and "| DEBUG |" in found("fine enough")
    assert "logger.problem=TypeError" in found("| %d orders |")
    assert "WARNING | - - - " in found("| from a greenlet | logger=elsewhere")
    for text in ("from the loop", "from its thread"):
        assert f"message.id={later.id}" in found(text) and "logshop - talk_later" in found(text)
    assert "not shown" not in pool.output

    # And: what asked for another try is told of by what it failed of, in the log, the outcome and the dead letter
    wanted = {
        "given": ("Bad", "the bank is closed"),
        "handled": ("KeyError", "'key'"),
        "plain": ("MaxRetriesExceeded", "was tried again 1 times, which is all of max_retries"),
    }
    for how, (kind, message) in wanted.items():
        handle = unlucky[how]
        with pytest.raises(TaskFailed) as caught:
            handle.get(timeout=20)
        assert (caught.value.type_name, caught.value.message) == (kind, message)
        lines = [line for line in pool.output.splitlines() if handle.id in line and "FAILED" in line]
        assert [line.count("| FAILED, will be tried again |") for line in lines] == [1, 0]
        assert f"| error.type={kind} | error.message={message} |" in lines[1]
        if how != "plain":
            assert f"| error.type={kind} | error.message={message} |" in lines[0]
        letter = json.loads(str(redis_client.hget(keys.letters("logshop", QUEUE_GROUP), handle.id), "utf-8"))
        assert (letter["error"]["type"], letter["error"]["message"]) == (kind, message)


def test_an_application_that_configured_its_root_logger_keeps_it(make_shop: Callable[..., Shop]) -> None:
    # Given: an app whose dictConfig gives the root logger a handler, and so switches off every other logger there is
    shop = make_shop(OWN_ROOT)
    pool = shop.pool()
    shop.send("talk", "5").get(timeout=20)
    eventually(lambda: "from a greenlet" in pool.output)
    # Then: its lines are its own, at its own level, and once
    assert "OWN WARNING httpx slow\n" in pool.output and pool.output.count("from a greenlet") == 1
    assert "Order 5" not in pool.output
    # And: the worker's are the worker's
    assert "| Worker starts |" in pool.output and "OWN INFO" not in pool.output
    # And: they say which queues are worked off
    assert "| consumes=logshop\n" in pool.output
