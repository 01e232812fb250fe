"""A depot's way from the scanner at the gate to the label on the parcel, in two stages on two streams."""
