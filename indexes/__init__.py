"""Where Gaussians are kept: the Lance items table (the truth), what is derived from it, the store.

`Store` is the way in. FORMAT.md says what lies on disk, byte for byte where it matters.
"""
