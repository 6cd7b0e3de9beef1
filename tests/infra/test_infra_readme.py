"""Claims about infra/README.md: whatever it tells people to type or to look at exists."""

import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
from infra_files import INFRA, ROOT

TEXT = (INFRA / "README.md").read_text()
COMMANDS = [line.strip() for block in re.findall(r"(?:^    .*\n)+", TEXT, re.MULTILINE) for line in re.sub(r"\\\n\s*", "", block).splitlines() if line.strip()]


class StoppedError(Exception):
    """Instead of running."""


def test_every_file_that_is_named_exists() -> None:
    named = {word for word in re.findall(r"`([\w./-]+)`", TEXT) if "/" in word or word.endswith((".yaml", ".tf", ".txt", ".md", ".json"))}
    outside = {"private/keys", "runs/sbom", ".terraform.lock.hcl", "raw/", "derived/", "/-/routes"}
    places = (ROOT, INFRA, INFRA / "terraform", INFRA / "kuberay", INFRA / "monitoring")
    assert not [word for word in named - outside if not any((place / word.rstrip("/")).exists() for place in places)]


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) >= 6
    assert not [name for name in named if not (ROOT / "tests" / "infra" / f"{name}.py").exists()]


def test_every_test_of_infra_that_holds_a_default_is_named() -> None:
    files = {path.stem for path in (ROOT / "tests" / "infra").glob("test_*.py")}
    assert files - set(re.findall(r"`(test_\w+)`", TEXT)) <= {"test_terraform_apply", "test_monitoring", "test_alerts", "test_infra_readme", "test_autoscaler_wait"}


def test_every_make_command_is_a_target() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    typed = {line.split()[1] for line in COMMANDS if line.startswith("make ")} | set(re.findall(r"`make (\w+)`", TEXT))
    assert {"audit", "sbom", "licences", "lock", "manifests"} <= typed
    assert typed <= targets


def test_every_metric_that_is_named_is_exported() -> None:
    from test_monitoring import metrics

    for name in re.findall(r"`(ray_foodray_\w+?)_?\*?`", TEXT):
        assert name in metrics() or f"{name}_bucket" in metrics()


def test_every_ray_command_is_one_of_rays() -> None:
    from ray.scripts.scripts import cli

    typed = [line.split(".venv/bin/ray ")[1].split()[0] for line in COMMANDS if ".venv/bin/ray " in line]
    assert {"get-auth-token", "up", "dashboard", "job", "down"} == set(typed)
    assert set(typed) <= set(cli.commands)


def test_make_manifests_is_told_with_everything_it_needs() -> None:
    [line] = [line for line in COMMANDS if line.startswith("make manifests")]
    needed = set(re.findall(r'"(\w+)=\$\(\w+\)"', (ROOT / "Makefile").read_text()))
    assert needed <= {word.split("=")[0] for word in line.split()[2:]}


@pytest.mark.parametrize("line", [line for line in COMMANDS if "ray job submit" in line])
def test_the_jobs_that_are_submitted_are_accepted(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from foodray.cli import main

    def stop(*_: Any, **__: Any) -> None:
        raise StoppedError

    for place in ("foodray.training.run.train", "foodray.scoring.run.score"):
        monkeypatch.setattr(place, stop)
    _, script, *arguments = shlex.split(line.split(" -- ")[1].split("#")[0])
    words = re.findall(r"main\(\[(.*?), \*sys", (ROOT / script).read_text())[0].replace('"', "").split(", ")
    with pytest.raises(StoppedError):
        main([*words, *arguments])


def test_the_images_are_built_from_the_targets_of_the_dockerfile() -> None:
    [targets] = re.findall(r"for target in ([\w ]+); do", TEXT)
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    assert set(targets.split()) <= set(stages)


def test_foodrays_own_commands_are_accepted_as_far_as_they_can_be_without_a_bucket() -> None:
    typed = [line.split(".venv/bin/foodray ")[1] for line in COMMANDS if ".venv/bin/foodray " in line]
    assert typed == ["keys add s3://BUCKET/private/keys --name tablet --scopes analyze review"]
    done = subprocess.run([sys.executable, "-m", "foodray", "keys", "add", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert "--scopes" in done.stdout
