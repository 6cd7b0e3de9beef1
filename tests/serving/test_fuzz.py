"""The OpenAPI description under fire: schemathesis makes requests from it, good and bad ones, and holds the answers of a real server against it.

Seeds are fixed. `FOODRAY_FUZZ_EXAMPLES` sets how many examples an operation gets in the slow run.
"""

import base64
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hostile_helpers import Target, attacked, photo
from hypothesis import HealthCheck, Phase, given, settings, strategies
from hypothesis.errors import Unsatisfiable
from odd import encoded, picture
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import positive_data_acceptance

from foodray.analyzer.messages import AnalyzeReply
from foodray.serving.corrections import Save
from foodray.serving.job_messages import JobRequest
from foodray.serving.legacy_routes import BASE
from foodray.serving.problems import PROBLEMS
from foodray.serving.uploads import References

MANY = os.environ.get("FOODRAY_FUZZ_EXAMPLES", "200")
EXAMPLES = 10
"""Of each operation and mode in the fast run."""
MODES = {mode.value: mode for mode in GenerationMode}
OPERATIONS = (
    "POST /v1/analyze",
    "GET /v1/models",
    "GET /v1/labels",
    "GET /healthz",
    "GET /readyz",
    "POST /v1/jobs",
    "GET /v1/jobs",
    "GET /v1/jobs/{job_id}",
    "DELETE /v1/jobs/{job_id}",
    "GET /v1/jobs/{job_id}/tables/{file}",
    "GET /v1/analyses",
    "GET /v1/analyses/{analysis_id}",
    "DELETE /v1/analyses/{analysis_id}",
    "GET /v1/analyses/{analysis_id}/photo",
    "POST /v1/analyses/{analysis_id}/corrections",
    "GET /v1/corrections.csv",
    "GET /v1/items_reviewed.csv",
    "GET /v1/corrections.coco.json",
    "POST /v1/taggers",
    "GET /v1/taggers",
    "GET /v1/taggers/{tagger_id}",
    "DELETE /v1/taggers/{tagger_id}",
    "POST /v1/taggers/{tagger_id}/photos",
    "POST /v1/taggers/{tagger_id}/train",
    "POST /v1/taggers/{tagger_id}/stop",
    "POST /v1/taggers/{tagger_id}/predict",
    f"POST {BASE}/",
    f"GET {BASE}/{{model_id}}",
    *(f"POST {BASE}/{{model_id}}/{end}/" for end in ("UploadFiles", "UploadUrls", "Train", "LabelFiles", "LabelUrls")),
)
LEAKS = ("Traceback", 'File "', "site-packages", "foodray/", "Exception", "<class", "object at 0x")
"""What no answer holds."""
CONFIG = """
[[operations]]
include-path-regex = "^/v1/jobs|[Tt]rain"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", "503"]
"""
"""For the command: the cluster that jobs need is not there, which is 503."""
TO_KEPT_ONES = """
[[operations]]
include-path-regex = "analysis_id"
parameters = { "path.analysis_id" = "%s" }
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("fuzzed")) as running:
        yield running


@pytest.fixture(scope="module")
def description(target: Target) -> dict[str, Any]:
    described: dict[str, Any] = requests.get(f"{target.url}/openapi.json", timeout=60).json()
    return described


@pytest.fixture(scope="module")
def told(target: Target, description: dict[str, Any]) -> Any:
    """The description as schemathesis reads it."""
    photos = [photo(), encoded(picture(1), "PNG"), encoded(picture(2), "WEBP"), photo()[:2000], b"", b"<html>"]
    schemathesis.openapi.format("binary", strategies.sampled_from(photos))
    config = schemathesis.Config.from_dict({"headers": {"Authorization": f"Bearer {target.tokens['all']}"}, "base-url": target.url})
    return schemathesis.openapi.from_dict(description, config=config)


@schemathesis.check
def well_behaved(ctx: Any, response: Response, case: schemathesis.Case) -> None:
    """No failure of ours, no answer without its headers, and no word of the inside."""
    text = response.text if "json" in response.headers.get("content-type", [""])[0] else ""
    assert not [word for word in LEAKS if word in text], text
    assert response.headers["x-content-type-options"] == ["nosniff"]
    assert len(response.headers["x-request-id"]) == 1
    if response.status_code >= 400:
        found = json.loads(text)
        assert PROBLEMS[found["code"]][0] == response.status_code == found["status"]
        if response.status_code >= 500:  # the cluster that the jobs ask for is not there, and says so
            assert (needs_cluster(case.path), found["code"]) == (True, "not_ready"), text


def needs_cluster(path: str) -> bool:
    """Whether an operation asks for the cluster, which is not there."""
    return path.startswith("/v1/jobs") or "train" in path.lower()


def tagger(target: Target) -> str:
    """A tagger that may be trained, and that answers to nobody yet."""
    headers = {"Authorization": f"Bearer {target.tokens['all']}"}
    known = requests.get(f"{target.url}/v1/taggers", headers=headers, timeout=60).json()["taggers"]
    if known:
        return str(known[0]["tagger_id"])
    made = requests.post(f"{target.url}/v1/taggers", headers=headers, json={"categories": ["carbs", "0"]}, timeout=60).json()["tagger_id"]
    files: list[Any] = [("files", ("a.jpg", photo())), ("data", (None, '[{"filename": "a.jpg", "categories": ["carbs"]}]'))]
    assert requests.post(f"{target.url}/v1/taggers/{made}/photos", headers=headers, files=files, timeout=60).status_code == 200
    return str(made)


def kept(target: Target) -> str:
    """An analysis that is there."""
    ids = [name.split("/")[1] for name in target.reviews.store.list("analyses") if name.endswith("analysis.json")]
    if not ids:
        answer = target.call("POST", "/v1/analyze?keep=photo", files=[("image", ("a.jpg", photo()))])
        ids = answer.json()["analysis_ids"]
    return str(ids[0])


def attack(label: str, mode: str, told: Any, target: Target, num: int) -> Counter[int]:
    """Send examples of an operation and check the answers; the good ones go to an analysis that is there, every other time. Returns the statuses."""
    method, path = label.split(" ")
    basic = "Basic " + base64.b64encode(f"{target.tokens['all']}:".encode()).decode()
    statuses: Counter[int] = Counter()

    def send(case: schemathesis.Case) -> None:
        if mode == "positive" and "analysis_id" in case.path_parameters and statuses.total() % 2:
            case.path_parameters["analysis_id"] = kept(target)
        if mode == "positive" and (names := {"tagger_id", "model_id"} & case.path_parameters.keys()) and statuses.total() % 2:
            case.path_parameters[names.pop()] = tagger(target)
        headers = {"Authorization": basic} if path.startswith("/api/v2/") else None
        answer = case.call_and_validate(
            headers=headers, excluded_checks=[positive_data_acceptance, not_a_server_error], additional_checks=[well_behaved], timeout=60
        )
        statuses[answer.status_code] += 1

    how = settings(max_examples=num, phases=[Phase.explicit, Phase.generate], deadline=None, derandomize=True, database=None)
    try:
        cases = told[path][method].as_strategy(generation_mode=MODES[mode])
        settings(how, suppress_health_check=list(HealthCheck))(given(cases)(send))()
    except Unsatisfiable:
        assert mode == "negative", "there is nothing that could be wrong"
    return statuses


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("label", OPERATIONS)
def test_every_operation_answers_as_it_is_described(label: str, mode: str, told: Any, target: Target) -> None:
    statuses = attack(label, mode, told, target, EXAMPLES)
    if mode == "positive" and not needs_cluster(label.split(" ")[1]) and not any(word in label for word in ("corrections", "predict", "Label")):
        assert any(status < 300 for status in statuses), statuses


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("label", OPERATIONS)
def test_every_operation_answers_many_times_as_it_is_described(label: str, mode: str, told: Any, target: Target) -> None:
    print(f"{label} {mode}: {dict(attack(label, mode, told, target, int(MANY)))}")


@pytest.mark.slow
@pytest.mark.parametrize("to_kept_ones", [False, True])
def test_the_command_finds_nothing_in_all_of_its_phases(to_kept_ones: bool, target: Target, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG + (TO_KEPT_ONES % kept(target) if to_kept_ones else ""))
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{target.url}/openapi.json", "-c", "all", "--exclude-checks"]
    command += ["positive_data_acceptance", "-H", f"Authorization: Bearer {target.tokens['all']}", "--seed", "5", "-n", MANY, "--continue-on-failure"]
    command += ["--include-path-regex", "analysis_id", "--exclude-method", "DELETE"] if to_kept_ones else []
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    print(ran.stdout)


def test_the_service_is_well_after_all_of_it(target: Target) -> None:
    assert target.is_well()


def test_the_description_is_valid_and_whole(description: dict[str, Any]) -> None:
    validate(description)
    assert {f"{method.upper()} {path}" for path, operations in description["paths"].items() for method in operations} == set(OPERATIONS)
    assert "$defs" not in json.dumps(description)
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            refused = [answer["content"] for status, answer in operation["responses"].items() if status >= "400"]
            assert refused, (method, path)
            assert all(list(content) == ["application/problem+json"] for content in refused), (method, path)
            scheme = "key" if path.startswith("/v1/") else "key_as_user" if path.startswith("/api/v2/") else None
            assert operation.get("security") == (scheme and [{scheme: []}]), (method, path)


def test_examples_are_what_they_stand_for(description: dict[str, Any]) -> None:
    paths = description["paths"]
    AnalyzeReply.model_validate(paths["/v1/analyze"]["post"]["responses"]["200"]["content"]["application/json"]["example"])
    asked = paths["/v1/analyze"]["post"]["requestBody"]["content"]["application/json"]["example"]
    References.model_validate_json(json.dumps(asked))
    body = paths["/v1/analyses/{analysis_id}/corrections"]["post"]["requestBody"]["content"]["application/json"]["example"]
    Save.model_validate_json(json.dumps(body))
    job = paths["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]["example"]
    JobRequest.model_validate(job)


def test_every_code_is_documented_where_it_can_come_from(description: dict[str, Any]) -> None:
    said = {
        code for operations in description["paths"].values() for one in operations.values() for answer in one["responses"].values()
        for content in answer.get("content", {}).values() for code in content.get("examples", {})
    }  # fmt: skip
    assert said | {"method_not_allowed"} == set(PROBLEMS)
