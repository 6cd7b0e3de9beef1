"""Claims about the command line: what is wrong is said at once, with the nearest right thing, and help tells every setting."""

import ast
import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest

from foodray.cli import DEMO_SEGMENTATION, DEMO_SETTINGS, main
from foodray.cli.printing import print_progress
from foodray.cli.train import named
from foodray.corpus.splits import SplitConfig
from foodray.nn.segmentation import Architecture, PointSettings
from foodray.storage.store import Store
from foodray.tasks.base import Optimizer
from foodray.tasks.mtl import ROWS, MtlConfig, preset
from foodray.tasks.segmentation import preset as preset_of_networks
from foodray.tasks.transform import Augmentation
from foodray.training.compare import CompareConfig
from foodray.training.config import LoopConfig, RunConfig, WorkerConfig
from foodray.training.search import SearchConfig
from foodray.training.table1 import Table1Config

ROOT = Path(__file__).parents[1]
TRAIN = ["train", "mtl", "--corpus", "no/corpus", "--results", "no/results"]
SEGMENT = ["train", "segmentation", "--corpus", "no/corpus", "--results", "no/results"]
Said = tuple[int, str]


class StoppedError(Exception):
    """Instead of training."""


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], Said]:
    """Runs a command that must end by itself before Ray starts: its exit code and its words, without frames and line breaks."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))

    def run(arguments: list[str]) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        return int(ended.value.code or 0), words(captured.out + captured.err)

    return run


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], RunConfig[MtlConfig]]:
    """The config that a training command would run."""
    seen: list[RunConfig[MtlConfig]] = []

    def stop(config: RunConfig[MtlConfig], *_: Any, **__: Any) -> None:
        seen.append(config)
        raise StoppedError

    monkeypatch.setattr("foodray.training.run.train", stop)

    def run(arguments: list[str]) -> RunConfig[MtlConfig]:
        with pytest.raises(StoppedError):
            main(arguments)
        return seen[-1]

    return run


def words(text: str) -> str:
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


WRONG = {
    "a flag": ([*TRAIN, "--task.epoch", "3"], "--task.epochs"),
    "a flag of the loop": ([*TRAIN, "--loop.batchsize", "3"], "--loop.batch-size"),
    "a preset": ([*TRAIN, "--preset", "papper"], "invalid choice 'papper' for argument '--preset'. Expected one of ('default', 'paper', 'sgd', 'transfer')"),
    "a row": ([*TRAIN, "--row", "sps_cfda"], "'sps_cdfa'"),
    "a backbone": ([*TRAIN, "--task.backbone", "resnet81"], "backbone = 'resnet81' is not a timm model; did you mean 'resnet18'?"),
    "a level": ([*TRAIN, "--task.shared-layers", "layer9"], "shared_layers = 'layer9' is unknown; did you mean 'layer3'?"),
    "a family": (["train", "mlt"], "did you mean 'mtl'?"),
    "no family": (["train"], "choose from: mtl, segmentation"),
    "a network": ([*SEGMENT, "--network", "enett"], "'enet'"),
    "a flag of segmentation": ([*SEGMENT, "--task.weightk", "1.2"], "--task.weight-k"),
    "a command": (["demmo"], "demo, sample, check, import, index, train, train-uploads, tune, table1, compare, longtail, distillation, show"),
    "a layout": (["import", "ecufstd", "a", "b"], "'ecustfd', 'folders'"),
    "the layout of the quiz": (["import", "human-estimate", "a", "b"], "'human-estimates'"),
    "a number": ([*TRAIN, "--loop.batch-size", "many"], "Error parsing --loop.batch-size"),
    "a missing corpus": (["train", "mtl", "--results", "r"], "--corpus STR Location of the corpus, local or s3://. (required)"),
    "a flag of another command": (["sample", "out", "--num-participant", "3"], "--num-participants"),
}
IMPOSSIBLE = {
    "features of one tower joined": (["--row", "classification", "--task.cdfa"], "cdfa joins the features of two towers, but heads = 'classification'"),
    "soft sharing of one tower": (["--row", "portion", "--task.sharing", "soft"], "sharing = 'soft' needs both heads, but heads = 'portion'"),
    "norm of what is not joined": (["--row", "sps", "--task.normalization", "ln"], "normalization = 'ln' needs cdfa"),
    "half precision on the CPU": (["--loop.precision", "fp16"], "loop.precision = 'fp16' needs workers.use_gpu"),
    "more shares than samples": (["--loop.batch-size", "4", "--loop.accumulate", "3", "--workers.num-workers", "2"], "workers x accumulate = 6"),
    "no batch": (["--loop.batch-size", "0"], "loop.batch_size = 0 must be >= 1"),
    "a fold beyond the folds": (["--split.fold", "5"], "0 <= fold = 5 < test_folds"),
    "a negative rate": (["--task.optimizer.lr", "-1"], "lr = -1.0 must be > 0"),
    "a name with a path": (["--name", "../other"], "name = '../other' must be a plain folder name"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_known_ends_with_code_2_and_names_what_is(kind: str, said: Callable[[list[str]], Said]) -> None:
    arguments, hint = WRONG[kind]
    code, text = said(arguments)
    assert code == 2
    assert hint in text
    assert "Traceback" not in text


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_settings_that_contradict_each_other_are_refused_by_name_before_ray_starts(kind: str, said: Callable[[list[str]], Said]) -> None:
    arguments, reason = IMPOSSIBLE[kind]
    code, text = said([*TRAIN, *arguments])
    assert code == 2
    assert reason in text


def test_a_corpus_that_is_not_there_ends_with_code_1_and_the_command_that_makes_it(said: Callable[[list[str]], Said], tmp_path: Path) -> None:
    code, text = said(["train", "mtl", "--corpus", str(tmp_path / "none"), "--results", str(tmp_path / "runs")])
    assert code == 1
    assert "foodray index STUDY" in text


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "sample",
        "check",
        "import",
        "index",
        "train",
        "tune",
        "table1",
        "compare",
        "longtail",
        "distillation",
        "show",
        "export",
        "score",
        "report",
        "analyze",
        "doctor",
    ],
)
def test_every_command_explains_itself(command: str, said: Callable[[list[str]], Said]) -> None:
    code, text = said([command, "--help"])
    assert code == 0
    assert f"usage: foodray {command}" in text


def test_help_lists_every_command(said: Callable[[list[str]], Said]) -> None:
    code, text = said(["--help"])
    assert code == 0
    assert (
        "{demo,sample,check,import,index,train,train-uploads,tune,table1,compare,longtail,distillation,show,export,score,diff,report,analyze,serve,keys,doctor}"
        in text
    )


def sentences(kind: type) -> dict[str, str]:
    """The text below each field of a config."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    texts = [after.value.value if isinstance(after, ast.Expr) else "" for after in [*body[1:], ast.Pass()]]
    return {line.target.id: text for line, text in zip(body, texts, strict=True) if isinstance(line, ast.AnnAssign)}


@pytest.mark.parametrize("kind", [RunConfig, LoopConfig, WorkerConfig, SplitConfig, MtlConfig, Optimizer, Augmentation])
def test_the_help_of_training_shows_the_sentence_of_every_setting(kind: type, said: Callable[[list[str]], Said]) -> None:
    _, text = said([*TRAIN[:2], "--help"])
    for name, sentence in sentences(kind).items():
        if name in ("task", "split", "loop", "workers", "optimizer", "augmentation"):  # groups: their fields are shown
            continue
        assert sentence, f"{kind.__name__}.{name} has no sentence"
        assert words(sentence) in text, f"{kind.__name__}.{name}"
        assert f"{name.replace('_', '-')} " in text


@pytest.mark.parametrize(("command", "kind"), [(["tune", "mtl"], SearchConfig), (["table1"], Table1Config), (["compare"], CompareConfig)])
def test_the_help_of_many_runs_shows_the_sentence_of_every_setting(command: list[str], kind: type, said: Callable[[list[str]], Said]) -> None:
    _, text = said([*command, "--help"])
    for name, sentence in sentences(kind).items():
        assert sentence, f"{kind.__name__}.{name} has no sentence"
        assert words(sentence) in text or name in ("task", "split", "loop", "workers"), f"{kind.__name__}.{name}"


JOBS = {
    "train_mtl": "foodray train mtl",
    "train_segmentation": "foodray train segmentation",
    "train_tagging": "foodray train tagging",
    "train_longtail": "foodray train longtail",
    "train_distillation": "foodray train mtl-distillation",
    "score_archive": "foodray score",
    "tune_mtl": "foodray tune mtl",
    "reproduce_table1": "foodray table1",
    "doctor": "foodray doctor",
}


@pytest.mark.parametrize("script", JOBS)
def test_a_job_script_is_the_same_command(script: str) -> None:
    done = subprocess.run([sys.executable, f"jobs/{script}.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: {JOBS[script]}" in done.stdout


def test_every_job_script_is_tested() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == JOBS.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--study", "s", "--results", "r", "--bundles", "b", "--runtime", "openvin"], "openvino"),
        (["--study", "s", "--results", "r", "--bundles", "b", "--max-quarantined", "2"], "between 0 and 1"),
        (["--study", "s", "--results", "r", "--bundles", "b", "--use-gpu"], "device"),
        (["--study", "no/such/study", "--results", "r", "--bundles", "no/bundle"], "images.csv"),
        (["--study", "s", "--results", "r"], "bundles"),
    ],
)
def test_a_wrong_scoring_command_fails_at_once_and_says_why(words: list[str], message: str, said: Callable[[list[str]], Said]) -> None:
    code, text = said(["score", *words])
    assert code in (1, 2)
    assert message in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[]", "holds a list"),
        ('{"study": "s", "results": "r", "analyser": {}}', "did you mean 'analyzer'"),
        ('{"study": "s", "results": "r", "analyzer": {"bundles": ["b"], "runtime": "openvin"}}', "analyzer.runtime"),
        ('{"study": "no/such/study", "results": "r", "analyzer": {"bundles": ["b"]}}', "images.csv"),
    ],
)
def test_settings_from_a_file_are_read_as_strictly_as_flags(content: str | None, message: str, said: Callable[[list[str]], Said], tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "score.json").write_text(content)
    code, text = said(["score", "--config", str(tmp_path / "score.json")])
    assert code in (1, 2)
    assert message in text


def test_flags_change_what_the_file_of_settings_says(said: Callable[[list[str]], Said], tmp_path: Path) -> None:
    (tmp_path / "score.json").write_text('{"study": "one/study", "results": "r", "analyzer": {"bundles": ["b"], "low_confidence": 0.3}}')
    code, text = said(["score", "--study", "another/study", "--config", str(tmp_path / "score.json")])
    assert code == 1
    assert "another/study" in text


def test_importing_the_command_line_starts_and_loads_nothing_heavy() -> None:
    code = "import foodray.cli, sys; print([name for name in ('ray', 'torch', 'timm', 'pandas') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout.strip() == "[]"


class TestParsing:
    @pytest.mark.parametrize("row", ROWS)
    @pytest.mark.parametrize("start", ["default", "paper", "sgd"])
    def test_preset_and_row_give_the_settings_of_their_names(self, start: str, row: str, parsed: Callable[[list[str]], RunConfig[MtlConfig]]) -> None:
        assert parsed([*TRAIN, f"--preset={start}", "--row", row]).task == preset(start, row)

    def test_a_flag_changes_its_setting_and_no_other(self, parsed: Callable[[list[str]], RunConfig[MtlConfig]]) -> None:
        plain, changed = parsed(TRAIN), parsed([*TRAIN, "--task.optimizer.lr", "0.5", "--workers.num-workers", "3", "--task.augmentation.no-flip"])
        assert (changed.task.optimizer.lr, changed.workers.num_workers, changed.task.augmentation.flip) == (0.5, 3, False)
        assert changed.loop == plain.loop == LoopConfig()
        assert changed.split == plain.split == SplitConfig()

    def test_a_run_without_a_name_gets_one_from_what_it_computes(self, parsed: Callable[[list[str]], RunConfig[MtlConfig]]) -> None:
        name = parsed(TRAIN).name
        assert re.fullmatch(r"mtl-[0-9a-f]{8}", name)
        assert parsed([*TRAIN, "--workers.num-workers", "2"]).name == name
        assert parsed([*TRAIN, "--loop.seed", "1"]).name != name
        assert named(RunConfig(task=MtlConfig(), corpus="c", results="r", name="mine"), "mtl").name == "mine"

    def test_the_settings_of_the_demo_are_settings(self, parsed: Callable[[list[str]], RunConfig[Any]]) -> None:
        for command, settings in ((TRAIN, DEMO_SETTINGS), (SEGMENT, DEMO_SEGMENTATION)):
            assert parsed([*command, *settings]).task.weights == "random"  # the demo needs no network

    @pytest.mark.parametrize("network", get_args(Architecture))
    def test_each_network_starts_from_its_preset(self, network: Architecture, parsed: Callable[[list[str]], RunConfig[Any]]) -> None:
        config = parsed([*SEGMENT, "--network", network, "--preset", "paper", "--task.points.num-points", "99"])
        assert config.task == replace(preset_of_networks("paper", network), points=PointSettings(num_points=99))
        assert config.name.startswith("segmentation-")


class TestShow:
    METRICS: ClassVar = {
        "test": {"accuracy": 0.75, "mae_kcal": 40.0, "mccr": 0.5, "mccr_constant": 1.0, "num_correct": 6, "num_both": 8, "mae_correct": 24.0, "ep_item": 0.2},
        "baselines": {"median": {"mae_kcal": 80.0, "ep_item": 0.4}},
        "num_samples": {"test": 8, "train": 20, "val": 6},
        "num_participants": {"test": 2, "train": 5, "val": 2},
        "kept_epoch": 3,
        "sample_data": True,
    }

    def test_a_folder_that_is_no_run_is_an_error_that_says_so(self, said: Callable[[list[str]], Said], tmp_path: Path) -> None:
        code, text = said(["show", str(tmp_path)])
        assert code == 2
        assert f"{tmp_path} is not a finished run (no run.json)" in text

    def test_the_table_says_what_the_numbers_are_of(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        store = Store(str(tmp_path))
        store.write("metrics.json", json.dumps(self.METRICS).encode())
        store.write("run.json", json.dumps({"split": {"method": "augment_then_split_leaky"}}).encode())
        main(["show", str(tmp_path)])
        text = words(capsys.readouterr().out)
        assert "test side: 8 samples of 2 participants" in text
        assert "MAE kcal" in text
        assert "this model 75.0% 40.0 24.0 20.0%" in text
        assert "median - 80.0 - 40.0%" in text
        assert "RENDERED SAMPLE DATA" in text
        assert "THE SPLIT LEAKS" in text
        assert "MCCR 0.5000 with C = 1, |I| = 6 correct of N = 8" in text

    def shown(self, by_class: dict[str, dict[str, float | None]], test: dict[str, float], folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
        store = Store(str(folder))
        store.write("metrics.json", json.dumps({**self.METRICS, "test": test, "baselines": {}, "by_class": by_class}).encode())
        store.write("run.json", json.dumps({"split": {"method": "grouped"}}).encode())
        main(["show", str(folder)])
        return [words(line) for line in capsys.readouterr().out.splitlines()]

    def test_classes_of_a_long_tail_stand_with_their_samples_and_their_groups_in_columns(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        rows: dict[str, dict[str, float | None]] = {"rare": {"accuracy": None, "num_samples": 0.0, "num_train": 3.0}}
        rows["often"] = {"accuracy": 0.5, "num_samples": 20.0, "num_train": 1250.0}
        test = {"accuracy": 0.5, "accuracy_macro": 0.25, "accuracy_frequent": 0.5, "accuracy_rare": 0.125}
        lines = self.shown(rows, test, tmp_path, capsys)
        assert "accuracy frequent rare mean of classes" in lines
        assert "this model 50.0% 50.0% 12.5% 25.0%" in lines
        at = lines.index("class accuracy samples train")
        assert lines[at + 1 : at + 4] == ["often 50.0% 20 1,250", "rare - 0 3", ""]

    def test_of_many_classes_the_best_and_the_worst_are_shown_and_the_place_of_the_others(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        rows: dict[str, dict[str, float | None]] = {f"c{index}": {"accuracy": (index * 37 % 101) / 100, "num_train": float(index)} for index in range(101)}
        rows |= {"none": {"accuracy": None, "num_train": 500.0}}
        lines = self.shown(rows, {"accuracy": 0.5}, tmp_path, capsys)
        at = lines.index("class accuracy train")
        shares = [float(line.split()[1].rstrip("%")) for line in lines[at + 1 : at + 22] if line != "…"]
        assert shares == [*range(100, 90, -1), *range(9, -1, -1)]
        assert lines[at + 11] == "…"
        assert lines[at + 22] == f"the best and the worst of 102; all are in {tmp_path}/metrics.json under by_class"


@pytest.mark.parametrize(("eta_s", "shown"), [(125, "2:05 left"), (None, "starting"), (0, "0:00 left")])
def test_a_line_of_progress_tells_epoch_speed_time_left_and_the_latest_validation(eta_s: int | None, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"stage": "joint", "epoch": 2, "epochs": 9, "step": 5, "steps": 40, "samples_per_s": 81.3, "eta_s": eta_s}
    print_progress({**record, "latest": {"val_accuracy": 0.5, "val_mae_kcal": 61.25}})
    line = capsys.readouterr().out
    assert all(part in line for part in ("joint epoch 2/9", "step 5/40", "81 samples/s", shown, "accuracy 50.0%", "MAE 61.2 kcal"))


def test_every_command_the_readme_and_the_makefile_type_is_installed() -> None:
    typed = set(re.findall(r"(?:\.venv/bin|\$\(BIN\))/([\w.-]+)", (ROOT / "README.md").read_text() + (ROOT / "Makefile").read_text()))
    assert "foodray" in typed
    assert {name for name in typed if not (Path(sys.executable).parent / name).exists()} == set()
