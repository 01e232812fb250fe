"""Place three orders and say what became of them."""

from taskstream import TaskFailed

from shop.orders import place
from shop.tasks import reserve

ORDERS = {
    "A-1": ("ann@example.org", {"chair": 4, "table": 1}),
    "A-2": ("bob@example.org", {"lamp": 2}),
    "A-3": ("cyd@example.org", {"chair": 1, "sofa": 1}),
}

if __name__ == "__main__":
    spare = reserve.apply_async(("lamp", 1), countdown=1, expires=60, priority=9)
    placed = {order: place(order, email, lines) for order, (email, lines) in ORDERS.items()}
    for order, result in placed.items():
        try:
            print(result.get(timeout=30))
        except TaskFailed as error:
            print(f"{order}: not placed, {error.message}")
    print(spare.get(timeout=30)["article"], "kept in reserve")
