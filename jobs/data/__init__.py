"""Rows of a data set, from a name to labelled tokens, and the gate that judges them."""
