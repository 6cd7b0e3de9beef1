"""The analyzer: one photo's bytes in, its items and tags out. Scoring and serving compose models here and nowhere else.

Decode, find the marker, take the boxes given or find foods with a segmentation bundle (without either the whole photo is one item
and says so), cut, recognise and estimate. It works with any subset of bundles. A bundle of the tagging family reads the whole photo, whatever
boxes there are and also where no food is found; with taggers alone the boxes, or the photo, are items of which nothing is known, so that an
unknown meal does not count as an empty one. Plain PyTorch: it runs in a notebook without Ray.

    analyzer = Analyzer.load(AnalyzerConfig(bundles=("runs/demo/runs/mtl/bundle",)))
    [analysis] = analyzer.analyze([PhotoInput(data=open("plate.jpg", "rb").read())])
    analysis.items  # one dict an item: box, class_name, class_prob, energy_kcal, energy_lo_kcal, energy_hi_kcal …
    analysis.tags  # with a tagger, one dict a tag by falling probability: tag, prob, given

A photo that cannot be read, or on which the model fails, is an `Analysis` with a reason, never an exception.
"""

from foodray.analyzer.analyzer import Analyzer
from foodray.analyzer.config import AnalyzerConfig, FindConfig
from foodray.analyzer.networks import Network, load_network, make_network
from foodray.analyzer.photos import Analysis, FoundBox, GivenBox, PhotoInput

__all__ = ["Analysis", "Analyzer", "AnalyzerConfig", "FindConfig", "FoundBox", "GivenBox", "Network", "PhotoInput", "load_network", "make_network"]
