"""The sample study: rendered photos of meals with known portions, made from a seed, for demonstrations and tests.

Public: `generate_sample_study(store, SampleConfig(…))`, which writes a study package; `plan_photos` and `compose`,
which tell what each photo shows and the true scale at its marker; and `render`, which draws one.
"""

from foodray.corpus.sample.picture import Picture, render
from foodray.corpus.sample.plan import Plan, SampleConfig, compose, plan_photos
from foodray.corpus.sample.scene import MARKER, Photo, Scene
from foodray.corpus.sample.study import SampleSummary, generate_sample_study

__all__ = ["MARKER", "Photo", "Picture", "Plan", "SampleConfig", "SampleSummary", "Scene", "compose", "generate_sample_study", "plan_photos", "render"]
