"""Confidence: what a person would say of a result, as a probability that keeps its word.

Two meanings are never mixed: a *match* is what a person would accept, a *target* the one image a
caption was written for. Applying a calibration needs NumPy alone, and so does fitting one.
"""
