"""Claims about the endpoint's settings: infra/serve.yaml holds only what Serve and foodray know, and what cannot work is refused before it starts."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from odd import make_bundle
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from foodray.analyzer import AnalyzerConfig
from foodray.errors import BundleError, ConfigError
from foodray.serving.access import add_key
from foodray.serving.app import ServeArgs, application
from foodray.serving.config import ServeConfig

FILE = Path(__file__).parents[2] / "infra" / "serve.yaml"


def unknown(values: Any, model: type[BaseModel], where: str = "") -> list[str]:
    """Keys that a pydantic model has no field for, which Serve itself would ignore."""
    fields = model.model_fields
    return [f"{where}{key}" for key in values if key not in fields]


def test_the_deployment_file_holds_no_key_that_serve_would_ignore() -> None:
    plain = yaml.safe_load(FILE.read_text())
    schema = ServeDeploySchema.model_validate(plain)
    assert not unknown(plain, ServeDeploySchema)
    assert not unknown(plain["http_options"], type(schema.http_options), "http_options.")
    assert not unknown(plain["applications"][0], type(schema.applications[0]), "applications.")
    assert schema.http_options.host == "127.0.0.1", "the endpoint has no TLS of its own"


def test_the_deployment_file_is_a_config_of_the_endpoint() -> None:
    [app] = yaml.safe_load(FILE.read_text())["applications"]
    config = ServeArgs.model_validate(app["args"]).config()
    assert config.keys, "an example without keys would be copied"
    assert app["import_path"] == "foodray.serving.app:build"


def test_a_misspelt_setting_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'markers'"):
        ServeArgs.model_validate({"analyzer": {"bundles": ["x"]}, "marker": "m.yaml"}).config()
    with pytest.raises(ConfigError, match="did you mean 'batch'"):
        ServeArgs.model_validate({"analyzer": {"bundles": ["x"]}, "graph": {"batches": {}}}).config()


def test_without_keys_the_endpoint_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOODRAY_INSECURE_NO_AUTH", raising=False)
    config = ServeConfig(analyzer=_analyzer(make_bundle(tmp_path / "bundle")))
    with pytest.raises(ConfigError, match="foodray keys add"):
        application(config)
    monkeypatch.setenv("FOODRAY_INSECURE_NO_AUTH", "1")
    assert application(config)


def test_a_bundle_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    add_key(str(tmp_path / "keys"), "test", ["analyze"])
    with pytest.raises(BundleError, match="nowhere"):
        application(ServeConfig(analyzer=_analyzer(str(tmp_path / "nowhere")), keys=str(tmp_path / "keys")))


def _analyzer(bundle: str) -> AnalyzerConfig:
    return AnalyzerConfig(bundles=(bundle,), runtime="eager")
