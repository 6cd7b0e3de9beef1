"""Claims about `foodray keys`: a token is printed once, a list shows no secret, a wrong word is named."""

from pathlib import Path

import pytest

from foodray.cli import main
from foodray.serving.access import KeyRing
from foodray.serving.problems import RequestError


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    main(["keys", *map(str, arguments)])
    captured = capsys.readouterr()
    assert not captured.err
    return captured.out.strip()


def test_a_key_is_made_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--name", "Tablet 1", "--scopes", "analyze", "review", "--study", "S1", "--requests-per-minute", "30")
    token = run(capsys, "add", tmp_path, *options)
    key = KeyRing.open(str(tmp_path)).check(f"Bearer {token}")
    assert (key.name, key.scopes, key.study, key.requests_per_minute) == ("Tablet 1", ("analyze", "review"), "S1", 30)
    listed = run(capsys, "list", tmp_path)
    assert listed == f"{key.key_id}  Tablet 1: analyze review, study S1, 30 requests a minute, made {key.created_at}, good"
    run(capsys, "revoke", tmp_path, key.key_id)
    assert "good" not in run(capsys, "list", tmp_path)
    with pytest.raises(RequestError):
        KeyRing.open(str(tmp_path)).check(f"Bearer {token}")


def test_no_secret_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = run(capsys, "add", tmp_path, "--name", "x", "--scopes", "admin")
    listed = run(capsys, "list", tmp_path)
    assert token.split("_")[1] in listed
    assert token.split("_", 2)[2] not in listed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add", "FOLDER", "--name", "x", "--scopes", "analyse"], "analyse"),
        (["add", "FOLDER", "--name", "x", "--scopes"], "a key needs scopes"),
        (["add", "FOLDER", "--scopes", "analyze"], "--name"),
        (["revoke", "FOLDER", "12345678"], "it holds none"),
        (["remove", "FOLDER"], "remove"),
    ],
)
def test_a_wrong_word_ends_the_command_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    folder = tmp_path / "keys"
    with pytest.raises(SystemExit) as ended:
        main(["keys", *(str(folder) if word == "FOLDER" else word for word in arguments)])
    assert ended.value.code == 2
    assert says in "".join(capsys.readouterr())
    assert not folder.exists()


def test_the_help_of_the_command_line_tells_of_keys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "keys --help" in " ".join(capsys.readouterr().out.split())
