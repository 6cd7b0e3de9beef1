"""Serving: the analyzer behind HTTP as a graph of Ray Serve deployments, with keys, limits, jobs and a page for review.

`foodray.serving.app:build` makes the application from a `ServeConfig`; `foodray serve` and infra/serve.yaml use it.
"""
