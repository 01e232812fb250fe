"""Which event or queue a name means."""

from __future__ import annotations

import pytest

from taskstream.control import pick
from taskstream.errors import ConfigError

KNOWN = {
    "shop.1x0.bill-order": ("orders", "billing"),
    "shop.1x0.send": ("ready", "senders"),
    "shop.1x1.send": ("ready", "senders-next"),
    "images.small": ("images.small", "taskstream"),
    "send": ("send", "taskstream"),
}


@pytest.mark.parametrize(
    ("target", "label"),
    [
        ("shop.1x0.bill-order", "shop.1x0.bill-order"),
        ("bill-order", "shop.1x0.bill-order"),
        ("images.small", "images.small"),
        ("send", "send"),  # a queue's whole name wins over the end of events' labels
        ("1x1.send", "shop.1x1.send"),
    ],
)
def test_found(target: str, label: str) -> None:
    assert pick(target, KNOWN) == label


@pytest.mark.parametrize(
    ("target", "known", "text"),
    [
        (
            "send",
            {label: KNOWN[label] for label in ("shop.1x0.send", "shop.1x1.send")},
            "'send' names several events, give one whole: shop.1x0.send, shop.1x1.send",
        ),
        ("bil-order", KNOWN, "no event or queue 'bil-order'; did you mean 'bill-order'? known: images.small, "),
        ("smal", {"images.small": KNOWN["images.small"]}, "no event or queue 'smal'; known: images.small"),
        ("x", {}, "none is known to this broker yet"),
    ],
)
def test_not_found_names_the_candidates(target: str, known: dict[str, tuple[str, str]], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pick(target, known)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
