"""Search over settings: many training runs on Ray Tune, chosen on validation, one final look at the test side.

space (which settings, which values) ── search (trials, scheduler, restart) ── results (a row a trial, the best bundle)
"""

from foodray.training.search.config import SearchConfig
from foodray.training.search.results import Found
from foodray.training.search.search import search

__all__ = ["Found", "SearchConfig", "search"]
