"""Gaussian heads over a frozen encoder that gives points: an adapter."""
