"""Whole ProLIP towers: where they start from, how they are trained, what leaves training."""
