"""Scoring: an archive of photos in, the tables of a study out."""
