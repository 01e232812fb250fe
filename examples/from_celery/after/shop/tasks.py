"""The tasks. The warehouse and the bank behind them are made up: each is busy when it is first asked."""

import logging

from taskstream import TimeLimitExceeded

from shop.app import app

logger = logging.getLogger(__name__)

PRICES = {"chair": 45.0, "lamp": 19.9, "table": 120.0}


class WarehouseBusy(Exception):
    """The warehouse has no time just now."""


@app.task(bind=True, max_retries=5)
def reserve(self, article: str, amount: int) -> dict:
    """Set goods aside; returns the line of the invoice."""
    if article not in PRICES:
        raise ValueError(f"there is no {article}")
    try:
        if self.request.retries == 0:
            raise WarehouseBusy(article)
    except WarehouseBusy as busy:
        raise self.retry(exc=busy, countdown=0.5) from busy
    return {"article": article, "amount": amount, "price": amount * PRICES[article]}


@app.task
def invoice(lines: list, order: str) -> dict:
    """Sum up what was reserved."""
    return {"order": order, "total": round(sum(line["price"] for line in lines), 2)}


@app.task(
    bind=True,
    autoretry_for=(ConnectionError,),
    max_retries=5,
    timeout=20,
    hard_timeout=30,
)
def charge(self, bill: dict) -> dict:
    """Have the bank collect the total."""
    try:
        if self.request.retries == 0:
            raise ConnectionError("the bank does not answer")
    except TimeLimitExceeded:
        logger.warning("The bank is slow: order %s", bill["order"])
        raise
    return {**bill, "paid": True}


@app.task(queue="mail", rate_limit="10/s")
def confirm(bill: dict, email: str) -> str:
    """Write to the customer; returns what was written."""
    return f"{bill['order']}: {bill['total']:.2f} paid, confirmed to {email}"


@app.periodic("*/15 6-20 * * *", tz="Europe/Berlin")
@app.task(ignore_result=True)
def update_prices() -> None:
    """Fetch the price list."""
    logger.info("Prices of %d articles", len(PRICES))
