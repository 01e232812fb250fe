"""Where handlers can keep values of their own."""
