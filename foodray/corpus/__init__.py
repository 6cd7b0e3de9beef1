"""ROWS: the study manifest, the one safe photo decoder, importers, splits, and the corpus of Parquet shards."""
