"""Apps and tasks without a server: registering, what is sent, what a worker gets to run."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import ROOT

from taskstream import BrokerUnavailable, ConfigError, ResultUnavailable, Task, Taskstream, TimeLimitExceeded
from taskstream import ValidationError as Invalid
from taskstream.app import core
from taskstream.app.loading import load_app
from taskstream.broker import Envelope
from taskstream.broker.publisher import Sent
from taskstream.handler import QUEUE_GROUP, Handler
from taskstream.keys import GATHER
from taskstream.message import Delivery, Message


class FakeBroker:
    """Keeps what is sent, batch by batch; refuses from batch number ``fails_at`` on."""

    def __init__(self, url: str = "redis://nowhere") -> None:
        self.url = url
        self.batches: list[list[tuple[str, Message]]] = []
        self.envelopes: list[Envelope] = []
        self.fails_at: int | None = None
        self.maybe_sent = False
        self.closed = False

    def send(self, envelope: Envelope) -> str:
        if envelope.uniques:
            self.envelopes.append(envelope)
            return "first-id"
        self.publish_many([(envelope.stream, envelope.message)])
        return envelope.message.id

    def publish_many(self, items: Iterable[tuple[str, Message]]) -> None:
        if self.fails_at is not None and len(self.batches) >= self.fails_at:
            raise BrokerUnavailable("broker cannot be reached", maybe_sent=self.maybe_sent)
        self.batches.append(list(items))

    def try_many(self, envelopes: Sequence[Envelope]) -> Sent:
        try:
            self.publish_many((envelope.stream, envelope.message) for envelope in envelopes)
        except BrokerUnavailable as error:
            return Sent([None] * len(envelopes), error)
        self.envelopes += envelopes
        return Sent([envelope.message.id for envelope in envelopes])

    def close(self) -> None:
        self.closed = True

    @property
    def sent(self) -> list[tuple[str, Message]]:
        return [item for batch in self.batches for item in batch]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeBroker]:
    """Every broker that apps make, in place of real ones."""
    brokers: list[FakeBroker] = []

    def make(url: str) -> FakeBroker:
        brokers.append(FakeBroker(url))
        return brokers[-1]

    monkeypatch.setattr(core, "Broker", make)
    return brokers


@pytest.fixture
def app(made: list[FakeBroker]) -> Taskstream:
    return Taskstream("shop", broker="redis://code")


def thumbnail(path: str, size: int = 128) -> str:
    """Make it small."""
    return f"{path}@{size}"


def run(handler: Handler, body: bytes) -> object:
    return handler.run(Delivery(Message("id", handler.name, body), "shop", QUEUE_GROUP, "1-0", 1))


def test_a_task_is_still_the_function(app: Taskstream) -> None:
    task = app.task(thumbnail)
    assert task("a", size=2) == "a@2"
    assert (task.name, task.queue, task.__doc__) == ("shop.thumbnail", "shop", "Make it small.")
    assert app.tasks == {"shop.thumbnail": task}
    assert isinstance(task, Task)


def test_delay_sends_one_message_with_the_call(app: Taskstream, made: list[FakeBroker]) -> None:
    result = app.task(queue="images", name="make-thumbnail")(thumbnail).delay("a.png", size=64)
    [(queue, message)] = made[0].sent
    assert queue == "images"
    assert message == Message(result.id, "make-thumbnail", b'{"args":["a.png"],"kwargs":{"size":64}}')


def test_a_function_attribute_does_not_rename_its_task(app: Taskstream) -> None:
    def decorated() -> None:
        """Carries attributes of the names a task has."""

    vars(decorated).update(name="other", queue="other")
    assert app.task(decorated).name == "shop.decorated"


def test_a_class_and_a_generator_are_no_tasks(app: Taskstream) -> None:
    def numbers() -> Iterable[int]:
        yield 1

    with pytest.raises(ConfigError, match="Path is a class, which is no task"):
        app.task(Path)
    with pytest.raises(ConfigError, match=r"^numbers is a generator, which is no task"):
        app.task(numbers)
    assert not app.tasks


def test_a_task_is_not_made_a_task_again(app: Taskstream) -> None:
    # Such as with @app.task above @app.periodic, which makes a task of a plain function
    task = app.task(thumbnail)
    for again in (app.task, app.task(name="other")):
        with pytest.raises(ConfigError, match=r"^shop\.thumbnail is a task already: put @app\.task right above"):
            again(task)
    assert list(app.tasks.values()) == [task]


def test_a_url_of_the_code_is_looked_at_when_the_app_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"broker": "x"}, {"broker": ""}, {"broker": "redis://h/x"}, {"results": "x"}, {"results": ""}):
        with pytest.raises(ConfigError, match="cannot be used"):
            Taskstream("shop", **options)
    monkeypatch.setenv("TASKSTREAM_BROKER", "redis://there")
    monkeypatch.setenv("TASKSTREAM_RESULTS", "null")
    assert Taskstream("shop", broker="", results="").results is None


def test_nothing_is_sent_that_does_not_fit(app: Taskstream, made: list[FakeBroker]) -> None:
    task: Any = app.task(thumbnail)
    with pytest.raises(Invalid, match=r"shop\.thumbnail: size: Not a valid integer") as caught:
        task.delay("a", size="big")
    assert set(caught.value.errors) == {"size"}
    with pytest.raises(Invalid):
        app.enqueue_many([task.s("a"), task.s("b", size="big")])
    assert all(not broker.batches for broker in made)


def test_enqueue_many_sends_in_order_500_at_once(app: Taskstream, made: list[FakeBroker]) -> None:
    first, second = app.task(thumbnail), app.task(name="other", queue="other")(thumbnail)
    results = app.enqueue_many((first if n % 2 else second).s(str(n)) for n in range(1201))
    assert [len(batch) for batch in made[0].batches] == [500, 500, 201]
    assert [message.id for _, message in made[0].sent] == [result.id for result in results]
    assert [queue for queue, _ in made[0].sent[:3]] == ["other", "shop", "other"]
    assert msgspec.json.decode(made[0].sent[700][1].body) == {"args": ["700"]}
    assert app.enqueue_many([]) == []


def test_enqueue_many_tells_how_much_was_sent(app: Taskstream, made: list[FakeBroker]) -> None:
    task = app.task(thumbnail)
    app.enqueue_many([task.s("a")])
    made[0].fails_at = 2
    with pytest.raises(BrokerUnavailable, match="500 of 600 messages were sent for certain") as caught:
        app.enqueue_many(task.s("a") for _ in range(600))
    assert caught.value.maybe_sent
    assert [handle.id for handle in caught.value.sent] == [message.id for _, message in made[0].sent[1:]]
    with pytest.raises(BrokerUnavailable, match="0 of 1 messages") as caught:
        app.enqueue_many([task.s("a")])
    assert not caught.value.maybe_sent


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"queue": "a b"}, "queue 'a b' is not a valid name"),
        ({"queue": "ts:a"}, "queue 'ts:a' is not a valid name"),
        ({"name": ""}, "task '' is not a valid name"),
        ({"name": 5}, "task 5 is not a valid name"),
        ({"max_retries": -1}, "max_retries=-1 cannot be used"),
        ({"max_retries": True}, "max_retries=True cannot be used"),
        ({"timeout": 0}, "timeout=0 cannot be used"),
        ({"timeout": "30"}, "timeout='30' cannot be used"),
        ({"timeout": float("nan")}, "timeout=nan cannot be used"),
        ({"hard_timeout": 0}, "hard_timeout=0 cannot be used"),
        ({"timeout": 30, "hard_timeout": 30.0}, "hard_timeout=30.0 cannot be used: give more than timeout=30"),
        ({"retry_backoff": -1.0}, "retry_backoff=-1.0 cannot be used"),
        ({"retry_backoff_max": None}, "retry_backoff_max=None cannot be used"),
        ({"retry_jitter": 1}, "retry_jitter=1 cannot be used"),
        ({"max_deliveries": 0}, "max_deliveries=0 cannot be used"),
        ({"ignore_result": "no"}, "ignore_result='no' cannot be used"),
        ({"autoretry_for": OSError}, "a tuple of Exception classes"),
        ({"autoretry_for": (KeyboardInterrupt,)}, "a tuple of Exception classes"),
        ({"autoretry_for": ("OSError",)}, "a tuple of Exception classes"),
        ({"max_retry": 1}, "has no option max_retry: there are name, queue, max_retries"),
        (
            {"soft_time_limit": 1, "acks_late": True},
            "acks_late (always so here), soft_time_limit (timeout here): there are",
        ),
    ],
)
def test_options_that_cannot_be_used_are_refused(app: Taskstream, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        app.task(**options)(thumbnail)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not app.tasks


def test_names_are_unique_and_there_must_be_one(app: Taskstream) -> None:
    app.task(thumbnail)
    with pytest.raises(ConfigError, match=r"two tasks named shop\.thumbnail"):
        app.task(thumbnail)
    with pytest.raises(ConfigError, match="a lambda has no name of its own: give one with name="):
        app.task(lambda: None)
    with pytest.raises(ConfigError, match="options go by name"):
        app.task("images")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="app 'a b' is not a valid name"):
        Taskstream("a b")
    with pytest.raises(ConfigError, match="broker=5 is not a URL"):
        Taskstream("a", broker=5)  # type: ignore[arg-type]


def test_the_handler_runs_the_function_with_its_settings(app: Taskstream) -> None:
    @app.task(
        max_retries=5,
        retry_backoff=2.0,
        autoretry_for=(OSError, TimeLimitExceeded),
        timeout=30,
        hard_timeout=60,
        ignore_result=True,
    )
    def later(day: date, *days: date) -> date:
        return max(day, *days)

    handler = later.handler()
    assert (handler.name, handler.app, handler.log_done_at) == ("shop.later", "shop", logging.DEBUG)
    settings = handler.settings
    assert (settings.max_retries, settings.retry_backoff, settings.timeout, settings.hard_timeout) == (5, 2.0, 30, 60)
    assert settings.retry_for == (OSError, TimeLimitExceeded) and settings.ignore_result
    value = run(handler, b'{"args":["2026-01-31","2026-02-01"]}')
    assert value == date(2026, 2, 1)
    assert handler.dump(value) == b'"2026-02-01"'


def test_a_task_is_retried_only_where_it_says_so(app: Taskstream) -> None:
    plain = app.task(name="plain")(thumbnail).settings
    retried = app.task(name="retried", autoretry_for=(OSError,))(thumbnail).settings
    assert (plain.max_retries, plain.retry_for) == (3, ())
    assert (retried.max_retries, retried.retry_for) == (3, (OSError,))


def test_a_coroutine_runs_through_what_the_worker_bound(app: Taskstream) -> None:
    @app.task
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    handler = double.handler()
    assert run(handler, b'{"args":[4]}') == 8
    seen: list[object] = []

    def bound(coroutine: Coroutine[Any, Any, Any]) -> object:
        seen.append(coroutine)
        coroutine.close()
        return 7

    app.bind(bound)
    assert run(handler, b'{"args":[4]}') == 7
    assert len(seen) == 1


def test_a_pool_works_off_every_queue_the_tasks_name(app: Taskstream) -> None:
    with pytest.raises(ConfigError, match="app shop has no tasks"):
        app.subscriptions()
    app.task(thumbnail)
    app.task(name="other", queue="images")(thumbnail)
    found = app.subscriptions()
    assert [(one.label, one.stream, one.group) for one in found] == [
        ("images", "images", "taskstream"),
        ("shop", "shop", "taskstream"),
    ]
    assert all(set(one.handlers) == {"shop.thumbnail", "other", GATHER} for one in found)
    assert [one.label for one in app.subscriptions(["b", "images", "b"])] == ["b", "images"]
    with pytest.raises(ConfigError, match="queue 'a b'"):
        app.subscriptions(["a b"])


def test_which_broker(app: Taskstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.broker.url == "redis://code"
    monkeypatch.setenv("TASKSTREAM_BROKER", "redis://environment")
    assert app.broker.url == "redis://code"  # connected already
    app.close()
    assert app.broker.url == "redis://environment"
    app.close()
    app.override(broker_url="redis://option")
    assert app.broker.url == "redis://option"
    app.close()
    monkeypatch.delenv("TASKSTREAM_BROKER")
    with pytest.raises(ConfigError, match="app lost has no broker: give one with"):
        Taskstream("lost").broker  # noqa: B018


def test_the_running_dev_broker_of_the_folder_is_found(
    app: Taskstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".taskstream").mkdir()
    monkeypatch.setattr("taskstream.embedded.running_broker_url", lambda folder: f"redis://dev/{folder.name}")
    assert app.broker.url == f"redis://dev/{tmp_path.name}"


def test_where_results_are_kept(app: Taskstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.results is None
    with pytest.raises(ResultUnavailable, match="app shop keeps no results"):
        app.AsyncResult("some-id").get()
    with pytest.raises(ResultUnavailable):
        app.AsyncResult("some-id").state  # noqa: B018
    here = Taskstream("here", results="json://kept")
    store = here.results
    assert store is not None and store.url == f"json://{Path(__file__).parent / 'kept'}"
    here.close()
    monkeypatch.setenv("TASKSTREAM_RESULTS", "json://environment")
    store = here.results
    assert store is not None and store.url == f"json://{tmp_path / 'environment'}"
    here.close()
    here.override(results_url="null")
    assert here.results is None


def test_how_long_results_and_dead_letters_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "taskstream.app.core.open_store", lambda url, **settings: opened.append({"url": url, **settings})
    )
    plain = Taskstream("plain", results="json://kept")
    short = Taskstream("short", dead_retention="36h", result_retention=90, result_fsync="checkpoint")
    monkeypatch.setenv("TASKSTREAM_RESULTS", "json://environment")
    for app in (plain, short):
        app.task(thumbnail)
        assert app.results is None
    assert [(one["retention"], one["fsync"]) for one in opened] == [(7 * 86400.0, "commit"), (90.0, "checkpoint")]
    assert [app.subscriptions()[0].dead_retention for app in (plain, short)] == [30 * 86400.0, 36 * 3600.0]
    assert plain.subscriptions()[0].retention == 0
    assert Taskstream("kept", retention="2h")._retention == 7200
    with pytest.raises(ConfigError, match="max_length counts what retention keeps"):
        Taskstream("kept", retention="2h", max_length=100)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dead_retention", "soon"),
        ("dead_retention", 0),
        ("retention", "never"),
        ("result_retention", None),
        ("result_retention", float("inf")),
        ("result_fsync", "never"),
        ("result_fsync", None),
    ],
)
def test_a_retention_that_cannot_be_used_is_told(option: str, value: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"Taskstream\('shop'\): {option}={value!r} cannot be used: give (a num|one of)"
    ):
        Taskstream("shop", **{option: value})


def test_closing_closes_and_the_next_use_opens_again(app: Taskstream, made: list[FakeBroker]) -> None:
    task = app.task(thumbnail)
    task.delay("a")
    app.close()
    task.delay("b")
    assert [broker.closed for broker in made] == [True, False]
    assert [len(broker.sent) for broker in made] == [1, 1]


def test_a_forked_child_has_connections_of_its_own(app: Taskstream, made: list[FakeBroker]) -> None:
    task = app.task(thumbnail)
    task.delay("a")
    blocked, done = threading.Event(), threading.Event()

    def hold_the_lock() -> None:
        with app._lock:
            blocked.set()
            done.wait(10)

    holder = threading.Thread(target=hold_the_lock)
    holder.start()
    blocked.wait(10)
    child = os.fork()
    if child == 0:
        try:
            task.delay("b")
            os._exit(10 + len(made) if len(made[-1].sent) == 1 and not made[0].closed else 1)
        finally:
            os._exit(2)
    done.set()
    holder.join()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 12


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("", "does not name an app"),
        ("shop tasks:app", "does not name an app"),
        ("shop_tasks:", None),
        ("shop_tasks:app", None),
        ("shop_tasks", None),
        ("shop_tasks:nested.app", None),
        ("shop_bare:nothing", "is no Taskstream app: module shop_bare needs nothing = Taskstream(…)"),
        ("shop_tasks:thing", "is no Taskstream app"),
        ("shop_tasks:ap", "is no Taskstream app: did you mean 'shop_tasks:app'?"),
        ("shop_bare", "is no Taskstream app: module shop_bare needs app = Taskstream(…)"),
        ("shop_tasks.app", "there is no module 'shop_tasks.app'"),
        ("shop_tasks.app", "; did you mean 'shop_tasks:app'?"),
        ("shop_tasks.py", "; did you mean 'shop_tasks'?"),
        ("shop_nowhere:app", "there is no module 'shop_nowhere'"),
        ("shop_nowhere.tasks:app", "there is no module 'shop_nowhere'"),
        ("shop_missing:app", "module shop_missing cannot be imported: ModuleNotFoundError: No module named 'no_such'"),
        ("shop_broken:app", "module shop_broken cannot be imported: ZeroDivisionError: division by zero"),
        ("shop_wrong:app", "module shop_wrong cannot be imported: ConfigError: @app.task has no option retries: "),
        ("shop_syntax:app", "module shop_syntax cannot be imported: SyntaxError: "),
    ],
)
def test_load_app(target: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    for name in [name for name in sys.modules if name.startswith("shop_")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "shop_tasks.py").write_text(
        "from taskstream import Taskstream\napp = Taskstream('shop')\nthing = 5\nclass nested:\n    app = app\n"
    )
    (tmp_path / "shop_bare.py").write_text("thing = 5\n")
    (tmp_path / "shop_missing.py").write_text("import no_such\n")
    (tmp_path / "shop_broken.py").write_text("\n1 / 0\n")
    (tmp_path / "shop_syntax.py").write_text("def\n")
    wrong = "from taskstream import Taskstream\napp = Taskstream('shop')\n@app.task(retries=3)\ndef f(): ...\n"
    (tmp_path / "shop_wrong.py").write_text(wrong)
    if said is None:
        assert load_app(target).name == "shop"
        return
    with pytest.raises(ConfigError) as caught:
        load_app(target)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    for module, line in (("shop_broken", 2), ("shop_wrong", 3)):
        if module in target:
            assert str(caught.value).endswith(f" ({tmp_path / module}.py:{line})")


def test_importing_the_package_loads_nothing_else() -> None:
    code = """
import sys
import taskstream
loaded = [name for name in sys.modules if name.startswith("taskstream.")]
assert not loaded, loaded
for name in taskstream.__all__:
    assert getattr(taskstream, name) is not None, name
assert set(taskstream.__all__) <= set(dir(taskstream))
try:
    taskstream.nothing
except AttributeError as error:
    assert "nothing" in str(error)
import taskstream.app.core
assert taskstream.app.__path__
from taskstream import Taskstream
assert Taskstream.__module__ == "taskstream.app.core"
assert not {"gevent", "flask"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_mypy_sees_a_wrong_argument(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text("""\
from taskstream import Task, Taskstream, shared_task

app = Taskstream("shop", broker="redis://localhost")


@app.task
def small(path: str, size: int = 1) -> str:
    return path


@app.task(queue="images", max_retries=5, retry_backoff=2.0, autoretry_for=(OSError,), timeout=30)
async def late(path: str) -> int:
    return len(path)


reveal_type(small.delay("a", size=2).get(timeout=10))
reveal_type(late.delay("a").get())
reveal_type(small("a"))
reveal_type(app.enqueue_many(small.s(p) for p in "abc"))
small.delay("a", size="2")
small.delay("a", sise=2)
small.s("a", "b")
late.delay()
app.task(timeout="30")
small.apply_async(("a",), countdwon=3)


@app.task(bind=True, max_retries=5)
def bound(self: Task, path: str) -> int:
    if self.request.retries:
        raise self.retry(countdown=1)
    return 1


@shared_task(bind=True)
async def bound_late(self: Task, path: str) -> int:
    return 1


@shared_task
def shared(path: str) -> int:
    return 1


reveal_type(bound.delay("a").get())
reveal_type(bound_late.delay(path="a").get())
reveal_type(shared.delay("a").get())
reveal_type(bound("a"))
bound.delay(1)
bound.delay()
bound_late.delay("a", "b")
shared.delay(1)
app.task(bind=True, timeout="30")
small.si()
(small.s("a") | small.s(size=2) | small.s() | bound.s()).delay()
""")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path), str(snippet)],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = [line.partition("snippet.py:")[2] for line in done.stdout.splitlines() if "snippet.py" in line]
    said = {int(line.split(":")[0]): line for line in found if ": error:" in line or "Revealed" in line}
    assert '"str"' in said[16] and '"int"' in said[17] and '"str"' in said[18], done.stdout
    assert "list[taskstream.app.result.AsyncResult[Any]]" in said[19]
    assert all(": error:" in said[line] for line in range(20, 26)), done.stdout
    # The task of bind=True is no argument of a call, and needs no type parameters
    assert all('"int"' in said[line] for line in range(45, 49)), done.stdout
    assert all(": error:" in said[line] for line in range(49, 55)), done.stdout
    assert set(said) == {*range(16, 26), *range(45, 55)}, done.stdout
