"""Encoders: what turns images and texts into Gaussians. Start at `loading.load_encoder`."""
