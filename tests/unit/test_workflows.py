"""Chains, groups and chords without a server: what they come to, what travels, what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from flows import Flow
from hypothesis import given
from hypothesis import strategies as st

from taskstream import AsyncResult, GroupResult, Taskstream, ValidationError, chain, chord, group
from taskstream.continuation import FAILED_TEXT, Origin, Then, failed_with, follow
from taskstream.errors import InvalidMessage
from taskstream.message import FAILED_HEADER, GROUP_HEADER, PARENT_HEADER, ROOT_HEADER, THEN_HEADER, Message

app = Taskstream("shop", broker="redis://code")


@app.task
def inc(value: int, by: int = 1) -> int:
    return value + by


@app.task(queue="sums")
def total(values: list[Any]) -> int:
    return sum(total(one) if isinstance(one, list) else one for one in values)


@app.task
def twice(value: int) -> list[int]:
    return [value, value]


@app.task
def now() -> int:
    return 7


@app.task
def broken(value: int) -> int:
    raise KeyError(value)


@app.task(unique=True)
def once(value: int) -> int:
    return value


@pytest.fixture
def flow() -> Flow:
    return Flow(app)


def came_to(flow: Flow, handle: AsyncResult[Any] | GroupResult) -> Any:
    if isinstance(handle, GroupResult):
        return [came_to(flow, one) for one in handle]
    return flow.values[handle.id]


# -- what they come to -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (inc.s(1) | inc.s() | inc.s(by=10), 13),
        (inc.s(1) | inc.si(5) | inc.s(), 7),
        (chain(inc.s(1)), 2),
        (chain([inc.s(1), now.si(), twice.s()]), [7, 7]),
        (group(inc.s(n) for n in range(3)), [1, 2, 3]),
        (group(), []),
        (group([]) | total.s(), 0),
        (chord([], total.s()), 0),
        (chord((inc.s(n) for n in range(3)), total.s()), 6),
        (chord([inc.s(1)], now.si()), 7),
        (inc.s(1) | group(inc.s(), inc.s(by=5)), [3, 7]),
        (inc.s(1) | group(inc.s(), inc.s(by=5)) | total.s() | inc.s(), 11),
        (group(inc.s(1), inc.s(2)) | group(total.s(), total.s()), [5, 5]),
        (group(inc.s(1), inc.s(2)) | group(total.s(), total.s()) | total.s(), 10),
        (inc.s(1) | group([]) | total.s(), 0),
        (inc.s(1) | group([]) | group(total.s(), total.s()), [0, 0]),
        (inc.s(1) | group(), []),
        (group(group(inc.s(1), inc.s(2)), inc.s(3) | inc.s()), [[2, 3], 5]),
        (chord([group(inc.s(1), inc.s(2)), inc.s(3) | twice.s()], total.s()), 13),
        (chord([chord([inc.s(1), inc.s(2)], total.s()), group([]), inc.s(5)], total.s()), 11),
        (chord(group(inc.s(1), inc.s(2)), total.s() | inc.s()), 6),
        (chord([inc.s(1), inc.s(2)], group(total.s(), total.s())), [5, 5]),
        (group(chain(group(inc.s(1)), group(total.s()), total.s()), inc.s(0)), [2, 1]),
    ],
)
def test_what_a_workflow_comes_to(flow: Flow, work: Any, expected: Any) -> None:
    handle = work.delay()
    flow.run()
    assert came_to(flow, handle) == expected
    assert not flow.failures


def trees() -> st.SearchStrategy[Any]:
    """Workflows as plain data: a number, or a list of parts under its kind; each takes a number or nothing."""
    return st.recursive(
        st.integers(1, 5),
        lambda inner: st.tuples(st.sampled_from(["chain", "group", "chord"]), st.lists(inner, max_size=3)),
        max_leaves=12,
    )


def built(tree: Any) -> Any:
    """Groups in a chain are summed up by what follows them, so that every part takes a number."""
    if isinstance(tree, int):
        return inc.s(by=tree)
    kind, parts = tree
    if kind == "chain":
        return chain(inc.s(), *(built(part) for part in parts))
    return chord([built(part) for part in parts], total.s()) if kind == "chord" else group(built(one) for one in parts)


def expected(tree: Any, value: Any) -> Any:
    """The same with plain calls."""
    if isinstance(tree, int):
        return value + tree
    kind, parts = tree
    if kind == "chain":
        value += 1
        for part in parts:
            value = expected(part, value)
        return value
    values = [expected(part, value) for part in parts]
    return total(values) if kind == "chord" else values


def summed(tree: Any) -> Any:
    """Nothing in a chain gets a list: groups in one become chords, but for the last."""
    if isinstance(tree, int):
        return tree
    kind, parts = tree
    parts = [summed(part) for part in parts]
    if kind == "chain":
        parts = [("chord", [part]) if not isinstance(part, int) and part[0] != "chord" else part for part in parts]
    return kind, parts


@given(tree=trees(), seed=st.integers())
def test_any_workflow_in_any_order_comes_to_what_plain_calls_do(tree: Any, seed: int) -> None:
    tree = ("chain", [summed(tree)])
    flow = Flow(app)
    handle = built(tree).delay(0)
    flow.run_at_random(seed)
    assert came_to(flow, handle) == expected(tree, 0)
    assert len(flow.values) == len(flow.order), "something ran twice"


def test_arguments_of_the_start_come_before_a_calls_own(flow: Flow) -> None:
    handles = [
        inc.s(5).delay(1),
        inc.s().apply_async((1,), {"by": 6}),
        inc.si(5).delay(1, 2),
        (inc.s() | inc.s()).delay(1),
        group(inc.s(), inc.s(5)).delay(1),
        chord([inc.s(), inc.s(5)], total.s()).delay(1),
        chord([inc.s(1)])(total.s()),
        chord([inc.s(3)], total.s())(),
    ]
    flow.run()
    assert [came_to(flow, one) for one in handles] == [6, 7, 6, 3, [2, 6], 8, 2, 4]


# -- what travels ------------------------------------------------------------------------------------------


def test_the_handles_are_known_at_the_start(flow: Flow) -> None:
    handle = (inc.s(1) | group(inc.s(), inc.s()) | total.s()).delay()
    middle = handle.parent
    assert isinstance(middle, GroupResult) and isinstance(middle.parent, AsyncResult)
    flow.run()
    assert [came_to(flow, one) for one in (middle.parent, middle, handle)] == [2, [3, 3], 6]
    assert list(handle.queues) == ["sums"] and middle.parent.parent is None


def test_every_message_says_where_it_belongs(flow: Flow) -> None:
    handle = (inc.s(1) | group(inc.s(), inc.s() | inc.s()) | total.s()).delay()
    flow.run_at_random(1)
    members = handle.parent
    first = members.parent.id
    own = {key: flow.seen[key].headers or {} for key in flow.seen}
    assert not {PARENT_HEADER, ROOT_HEADER, GROUP_HEADER} & set(own[first])
    for message_id, headers in own.items():
        if message_id != first:
            assert headers[ROOT_HEADER] == first
            assert headers.get(GROUP_HEADER) == (None if message_id == handle.id else members.id)
    assert own[members[0].id][PARENT_HEADER] == first
    assert own[own[handle.id][PARENT_HEADER]][GROUP_HEADER] == members.id
    assert THEN_HEADER not in own[handle.id]


def test_headers_are_handed_on_and_a_calls_own_added(flow: Flow) -> None:
    work = inc.s(1) | inc.s().set(headers={"b": 2}) | group(inc.s()) | total.s()
    handle = work.apply_async(headers={"a": 1})
    flow.run()

    def told(result: Any) -> dict[str, Any]:
        headers = flow.seen[result.id].headers or {}
        return {name: value for name, value in headers.items() if not name.startswith("ts-")}

    assert told(handle) == {"a": 1, "b": 2} and told(handle.parent[0]) == {"a": 1, "b": 2}
    assert told(handle.parent.parent.parent) == {"a": 1}


def test_options_of_the_whole_hold_where_a_call_says_nothing(flow: Flow) -> None:
    work = chain(inc.s(1), group(inc.s().set(priority=1), inc.s()), total.s().set(queue="own"))
    handle = work.apply_async(queue="other", priority=7, expires=60, countdown=5)
    first = flow.envelopes[0]
    assert (first.stream, first.delay_ms, first.message.priority) == ("other", 5000, 7)
    found: dict[str, tuple[str, int, int | None]] = {}
    while flow.messages:
        queue, message = flow.messages[0]
        found[message.id] = (queue, message.priority, message.expires_in_ms)
        flow._run(*flow.messages.pop(0))
    assert found[handle.id] == ("own", 7, 60_000)
    assert [found[one.id] for one in handle.parent] == [("other", 1, 60_000), ("other", 7, 60_000)]


def test_a_step_keeps_its_options(flow: Flow) -> None:
    work = inc.s(1) | inc.s().set(countdown=3, priority=2)
    work.delay()
    message = flow.envelopes[0].message
    then = msgspec.json.decode(message.headers[THEN_HEADER], type=Then)  # type: ignore[index]
    (step,) = follow(then, b"5", Origin())
    assert (step.delay_ms, step.message.priority, step.message.body) == (3000, 2, b'{"args":[5]}')  # type: ignore[union-attr]


@pytest.mark.parametrize("option", ["task_id", "idempotency_key"])
def test_a_repeated_start_has_the_same_ids(option: str) -> None:
    def start() -> tuple[Any, list[Any]]:
        flow = Flow(app)
        work = chord([inc.s(1), inc.s(2) | inc.s()], total.s() | inc.s())
        return work.apply_async(**{option: "k1"}), flow.envelopes  # type: ignore[arg-type]

    (first, sent), (second, again) = start(), start()
    assert first == second and first.parent.parent == second.parent.parent
    assert [one.message.id for one in sent] == [one.message.id for one in again]
    assert all(one.uniques == (f"id:{one.message.id}",) for one in sent)
    assert (first.id == "k1") == (option == "task_id")


def test_without_a_key_each_start_is_new(flow: Flow) -> None:
    work = inc.s(1) | inc.s()
    assert work.delay() != work.delay()
    assert all(one.plain for one in flow.envelopes)


def test_with_an_outbox_a_chord_begins_by_one_message(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an app whose messages go through an outbox, and no broker that a chord could be opened on
    def nowhere(commands: list[tuple[Any, ...]]) -> list[Any]:
        raise AssertionError("the broker may be away")

    monkeypatch.setattr(app, "_outbox", flow)
    monkeypatch.setattr(flow, "calls", nowhere)
    # When workflows start that begin with a chord, or with a group, then each is so many messages
    chorded = chord([inc.s(1), inc.s(2) | inc.s()], total.s() | inc.s()).delay()
    assert len(flow.envelopes) == 1
    grouped = group(inc.s(1), inc.s(2)).delay()
    assert len(flow.envelopes) == 3
    # ... and comes to what it does without
    flow.run()
    assert came_to(flow, chorded) == 7 and came_to(flow, grouped) == [2, 3]
    assert came_to(flow, chorded.parent.parent) == [2, 4]


# -- failure -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "work",
    [
        broken.s(1) | inc.s() | inc.s(),
        inc.s(1) | broken.s() | group(inc.s(), inc.s()) | total.s() | inc.s(),
        chord([inc.s(1), broken.s(2), broken.s(3)], total.s()),
        chord([chord([broken.s(1)], total.s()), group(inc.s(1))], total.s() | inc.s()),
        inc.s(1) | group(inc.s(), broken.s()) | group(total.s(), total.s()) | total.s(),
        chord([inc.s(1) | twice.s() | inc.s()], total.s()),
    ],
)
def test_a_failure_is_passed_on_to_the_end(flow: Flow, work: Any) -> None:
    handle = work.delay()
    flow.run_at_random(5)
    assert handle.id not in flow.values
    assert flow.failures[handle.id] in ("KeyError", "InvalidMessage")
    assert handle.parent is None or not (set(flow.values) & {handle.id})


def test_what_has_failed_goes_on_when_it_comes_again(flow: Flow) -> None:
    # Given a chord of which a member has failed, and everybody was told
    handle = chord([inc.s(1), broken.s(2) | inc.s()], total.s() | inc.s()).delay()
    flow.run()
    assert flow.failures[handle.id] == "KeyError"
    # When the member's dead letter is requeued and succeeds
    member = next(message for message in flow.seen.values() if message.name == "shop.broken")
    fixed = msgspec.structs.replace(member, name="shop.inc")
    flow.messages.append(("shop", fixed))
    flow.run()
    # Then it is as if nothing had been
    assert flow.values[handle.id] == 2 + 4 + 1 and not flow.failures


def test_a_failed_message_is_not_tied_to_what_its_call_is(flow: Flow) -> None:
    work = broken.s(1) | inc.s().set(ordering_key="k")
    handle = work.delay()
    flow.run()
    headers = flow.seen[handle.id].headers
    assert headers is not None and "ts-order" not in headers
    failed = headers[FAILED_HEADER]
    assert (failed["type"], failed["state"], failed["id"]) == ("KeyError", "FAILURE", handle.parent.id)


def test_what_is_passed_on_of_an_error_is_bounded() -> None:
    failed = failed_with(Message("m", "t", b""), "FAILURE", "E", "x" * 10_000_000, "y" * 10_000_000)
    assert len(failed.message) < FAILED_TEXT + 10 and len(failed.traceback) < FAILED_TEXT + 10


@pytest.mark.parametrize(
    "header", [5, None, "[]", "{", '{"calls":[{"id":"a b","task":"t","queue":"q"}]}', '{"calls":5}']
)
def test_a_header_that_nobody_of_ours_wrote_fails_the_message(flow: Flow, header: Any) -> None:
    flow.messages.append(("shop", Message("m1", "shop.inc", b'{"args":[1]}', {THEN_HEADER: header})))
    flow.run()
    assert flow.failures == {"m1": "InvalidMessage"}


def test_a_queue_in_a_header_is_a_queue() -> None:
    then = msgspec.json.decode('{"calls":[{"id":"a","task":"t","queue":"ts:x"}]}', type=Then)
    with pytest.raises(InvalidMessage, match="queue"):
        list(follow(then, None, Origin()))


# -- what is refused ---------------------------------------------------------------------------------------

other = Taskstream("other", broker="redis://code")


@other.task
def foreign(value: int) -> int:
    return value


def deep(levels: int) -> Any:
    work: Any = inc.s(1)
    for _ in range(levels):
        work = group(work)
    return work


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (lambda: chord([inc.s(1)], "shop.nope")(), r"chord: callback: 'shop.nope' is no call: give task.s\(…\)"),
        (lambda: chord([inc.s(1)], total)(), r"chord: callback: <Task shop.total> is no call"),
        (lambda: chord([inc.s(1)])(), "chord: a chord has no callback"),
        (lambda: (chord([inc.s(1)], total.s()) | 5)(), "chain: step 2: 5 is no call"),
        (lambda: chord(5, total.s()), "chord: give calls, .* not 5"),
        (lambda: group(inc.s(1), 5)(), "group: member 1: 5 is no call"),
        (lambda: group("abc"), "group: give calls, .* not 'abc'"),
        (lambda: group({"a": inc.s(1)}), "group: give calls"),
        (lambda: group(inc.s(1), None)(), "group: member 1: None is no call"),
        (lambda: chain()(), "chain: a chain without a step"),
        (lambda: chain(inc)(), "chain: give calls"),
        (lambda: (inc.s(1) | inc)(), "chain: step 2: <Task shop.inc> is no call"),
        (lambda: (inc.s(1) | now.s())(), r"step 2: shop.now: args: takes 0 .* were given\. \(the first argument of"),
        (lambda: (inc.s(1) | inc.s(5, 6))(), "step 2: shop.inc: args: takes 2 positional"),
        (lambda: (inc.s(1) | inc.s(value=6))(), "step 2: shop.inc: value: given twice"),
        (lambda: (inc.s(1) | inc.s(by="x"))(), "step 2: shop.inc: by: Not a valid integer"),
        (lambda: (inc.s(1) | inc.s(nope=5))(), "step 2: shop.inc: nope: there is no such argument"),
        (lambda: (inc.s() | inc.s())(), "chain: step 1: shop.inc: value: required, but not given"),
        (lambda: group(inc.s("x"))(), "group: member 0: shop.inc: value: Not a valid integer"),
        (lambda: chord([inc.s(1), inc.s(2) | inc.s(by={})], total.s())(), "header: member 1: step 2: shop.inc: by"),
        (lambda: (inc.s(1) | foreign.s())(), "chain: step 1: shop.inc is of app shop, .* are of other"),
        (lambda: (inc.s(1) | once.s())(), "shop.once is unique=True"),
        (lambda: (inc.s(1) | inc.s().set(idempotency_key="k"))(), "step 2: shop.inc: idempotency_key: give it to the"),
        (lambda: (inc.s(1) | inc.s().set(queue="a b"))(), "step 2: shop.inc: queue: "),
        (lambda: group(inc.s(1)).apply_async(nope=1), "group: apply_async: nope: there is no such option"),
        (lambda: group(inc.s(1)).set(priorty=1), "group: set: priorty"),
        (lambda: group(inc.s(1)).apply_async(countdown=-1), "group: countdown: -1 is no number"),
        (lambda: group(inc.s(1)).apply_async(task_id="a b"), "group: task_id"),
        (lambda: group(inc.s(1)).apply_async(ordering_key="k"), "group: ordering_key: give it to the calls"),
        (lambda: group(inc.s(1)).apply_async(5), "group: args is a list or tuple"),
        (lambda: inc.s(1).apply_async(5), "shop.inc: args is a list or tuple"),
        (lambda: deep(101)(), "more than 100 groups"),
        (lambda: deep(5000)(), "more than 100 groups"),
        (lambda: chain(inc.s(1), *(step for _ in range(1000) for step in (group(inc.s()), total.s())))(), "more than"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_sent(flow: Flow, start: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        start()
    assert not flow.envelopes and not flow.chords


def test_as_many_groups_as_are_allowed_can_be_read_again(flow: Flow) -> None:
    nested, row = deep(100)(), chain(inc.s(0), *(step for _ in range(100) for step in (group(inc.s()), total.s())))()
    flow.run()
    value = came_to(flow, nested)
    for _ in range(100):
        (value,) = value
    assert value == 2 and came_to(flow, row) == 101


def test_a_workflow_can_be_started_again_and_is_not_changed_by_it(flow: Flow) -> None:
    work = inc.s() | group(inc.s(), inc.s())
    first, second = work.delay(1), work.set(priority=3).delay(2)
    flow.run()
    assert (came_to(flow, first), came_to(flow, second), work.options) == ([3, 3], [4, 4], {})
    assert repr(work) == "<chain of 2 steps>" and repr(group(inc.s(1))) == "<group of 1 members>"
