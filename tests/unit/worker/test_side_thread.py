"""Work beside the hub: done in order, in one native thread, while greenlets go on."""

from __future__ import annotations

import threading

import gevent
from gevent.monkey import get_original

from taskstream_worker.side_thread import SideThread

_allocate_lock = get_original("_thread", "allocate_lock")


def test_it_works_in_order_while_greenlets_go_on() -> None:
    # Given a thread whose first work takes until somebody lets it go
    gate = _allocate_lock()
    gate.acquire()
    thread, here = SideThread(), threading.get_native_id()
    done: list[int] = []

    def work(number: int) -> int:
        if number == 0:
            assert gate.acquire(timeout=20)
        done.append(number)
        return threading.get_native_id()

    answers = [thread.start(lambda number=number: work(number)) for number in range(3)]  # type: ignore[misc]
    # When greenlets go on meanwhile
    gevent.sleep(0.01)
    assert not any(answer.ready() for answer in answers) and done == []
    gate.release()
    # Then all of it is done by one other thread, one after the other
    found = {answer.get(timeout=20) for answer in answers}
    assert done == [0, 1, 2] and len(found) == 1 and here not in found
