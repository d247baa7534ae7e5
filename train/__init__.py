"""Losses, data, the loop and evaluation: what produces an encoder."""
