"""Captioned images of any size and form, brought to batches that a run can resume exactly."""
