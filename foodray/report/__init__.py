"""Statistics, figures and the study report."""
