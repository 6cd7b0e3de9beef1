"""BYTES: one Store over local paths and s3://, and model bundles that are verified on load."""
