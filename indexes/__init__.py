"""Where Gaussians are kept: the Lance items table (the truth) and the FAISS index (derived)."""
