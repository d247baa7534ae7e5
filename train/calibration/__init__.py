"""The calibration that an encoder ships with: fitted on judged photos, measured, reported."""
