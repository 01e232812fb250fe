"""The app: broker, results, defaults, and what runs by the clock."""

from taskstream import Taskstream

app = Taskstream(
    "shop",
    broker="redis://localhost:6379/0",
    results="redis://",
    result_retention="1d",
    include=["shop.tasks"],
)
