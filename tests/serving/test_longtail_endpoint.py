"""A classifier of the long-tail family behind the endpoint: nothing special, its classes are the answer's."""

from pathlib import Path

import requests
from endpoint_helpers import running, service
from odd import LONGTAIL_LABELS, encoded, make_longtail, picture

from foodray.analyzer import AnalyzerConfig, PhotoInput
from foodray.serving.http import create_app


def test_an_endpoint_lists_the_classes_of_a_separator_and_answers_with_them(tmp_path: Path) -> None:
    made = service(AnalyzerConfig(bundles=(make_longtail(tmp_path / "longtail", method="separator"),), runtime="openvino"))
    data = encoded(picture(0))
    with running(create_app(made)) as url:
        models = requests.get(f"{url}/v1/models", timeout=30).json()["models"]
        [photo] = requests.post(f"{url}/v1/analyze", files=[("image", ("a.jpg", data))], timeout=30).json()["photos"]
    assert [(model["task"], model["labels"]) for model in models] == [("longtail", list(LONGTAIL_LABELS))]
    [expected] = made.graph.analyzer.analyze([PhotoInput(data=data)])  # type: ignore[attr-defined]
    [item] = photo["items"]
    assert expected.items is not None
    assert [label["class_name"] for label in item["labels"]] == [pair["class_name"] for pair in expected.items[0]["topk"]]
    assert item["class_name"] in LONGTAIL_LABELS[:3]
