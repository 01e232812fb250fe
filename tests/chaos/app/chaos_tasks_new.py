"""The new release: two tasks more, and a queue that pools of the old release do not know."""

from chaos_effects import END, FAIL, begin, leave
from chaos_tasks import app

from taskstream import BrokerUnavailable

CHILD = 1 << 31
"""Added to a number for the second stage of its call."""


@app.task(max_retries=100, retry_backoff=0.2, retry_backoff_max=2.0, autoretry_for=(BrokerUnavailable,))
def first(number: int, child: str) -> int:
    """Send the second stage as message ``child``, whose id makes a repeat harmless."""
    run = begin(number)
    try:
        second.apply_async((number,), task_id=child)
    except BrokerUnavailable:
        leave(FAIL, number, run)
        raise
    leave(END, number, run)
    return number


@app.task(queue="chaos-next")
def second(number: int) -> int:
    """The end of it."""
    leave(END, number | CHILD, begin(number | CHILD))
    return number | CHILD
