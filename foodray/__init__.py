"""foodray: train, search, score and serve models that read a nutrition study's meal photographs, on Ray."""

__version__ = "0.1.0"
