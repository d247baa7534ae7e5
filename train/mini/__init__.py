"""The heads of the bundled encoder: frozen trunks, cached features, a few minutes of training."""
