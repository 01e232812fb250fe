"""What is made of an order: its lines side by side, then one step after the other."""

from taskstream import chain, chord

from shop.tasks import charge, confirm, invoice, reserve


def place(order, email, lines):
    """Start the work on an order; returns the handle of its last step."""
    reserved = [reserve.s(article, amount) for article, amount in lines.items()]
    return chain(chord(reserved, invoice.s(order)), charge.s(), confirm.s(email)).apply_async()
