"""An order shop: what it does in the background."""
