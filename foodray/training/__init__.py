"""Ray Train: one loop for all families, with resume."""
