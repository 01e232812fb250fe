"""A small event app for tests of commands: POST ``order`` writes stream ``orders``, STREAM ``bill`` reads it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

CONFIG = {
    "app": {"name": "shop-app", "version": "1.0"},
    "events": {
        "order": {"type": "POST", "write_stream": {"name": "orders"}},
        "bill": {"type": "STREAM", "read_stream": {"name": "orders", "consumer_group": "billing"}},
    },
}
MODEL = """
from taskstream.dataobjects import dataobject

@dataobject
class Order:
    item: str
"""
ORDER = '''
"""
Order
"""
from taskstream.app.api import event_api
from taskstream.app.context import EventContext
from .model import Order

__steps__ = ["take"]
__api__ = event_api(payload=(Order, "an order"), responses={200: (Order, "taken")})

def take(payload: Order, context: EventContext) -> Order:
    return payload
'''
BILL = '''
"""
Bill
"""
from pathlib import Path
from taskstream.app.context import EventContext
from .model import Order

__steps__ = ["bill"]

def bill(order: Order, context: EventContext) -> str:
    Path("bills").mkdir(exist_ok=True)
    Path("bills", order.item).write_text("EDITION")
    return f"EDITION {order.item}"
'''
LABEL = "shop-app.1x0.bill"


def write_shop(folder: Path, broker: str | None = None) -> None:
    """Make the app in ``folder``; its configuration names ``broker``."""
    server = {"streams": {"connection_str": broker}} if broker is not None else {}
    (folder / "server.json").write_text(json.dumps(server))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    package = folder / "shop_app"
    package.mkdir()
    for name, text in (("__init__", ""), ("model", MODEL), ("order", ORDER)):
        (package / f"{name}.py").write_text(text)
    edit(folder, "first")


def edit(folder: Path, edition: str) -> None:
    """Let ``bill`` write ``edition`` from now on."""
    (folder / "shop_app" / "bill.py").write_text(BILL.replace("EDITION", edition))


def order(port: int, item: str) -> bool:
    """POST an order; False while nobody answers or the broker is away."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/shop-app/1x0/order",
        json.dumps({"item": item}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def billed(folder: Path, item: str) -> str:
    """Which edition of the code billed ``item``; empty if none has yet."""
    path = folder / "bills" / item
    return path.read_text() if path.exists() else ""
