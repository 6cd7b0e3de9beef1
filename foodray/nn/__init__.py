"""TENSORS: networks and losses; torch only, no idea of files or Ray."""
