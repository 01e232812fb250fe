"""The app: broker, results, defaults, and what runs by the clock."""

from celery import Celery
from celery.schedules import crontab

app = Celery(
    "shop",
    broker="redis://localhost:6379/0",
    backend="redis://localhost:6379/1",
    include=["shop.tasks"],
)

app.conf.update(
    timezone="Europe/Berlin",
    result_expires=24 * 3600,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_routes={"shop.tasks.confirm": {"queue": "mail"}},
    beat_schedule={
        "price-list": {"task": "shop.tasks.update_prices", "schedule": crontab(minute="*/15", hour="6-20")},
    },
)
