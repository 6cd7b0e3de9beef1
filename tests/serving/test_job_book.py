"""Claims about the record of jobs: what a client may name, whose a job is, and that a repeated request is one job. No Ray is needed."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from odd import write_archive

from foodray.analyzer import AnalyzerConfig
from foodray.config import from_plain
from foodray.scoring.config import ScoreConfig
from foodray.serving.access import Key
from foodray.serving.config import JobsConfig
from foodray.serving.job_book import JobBook, inside
from foodray.serving.job_messages import JobRequest
from foodray.serving.problems import RequestError
from foodray.storage.store import Store


def key(letter: str, *scopes: str) -> Key:
    return Key(key_id=letter * 8, name=letter, scopes=scopes or ("jobs",), created_at="", salt="0" * 32, secret_sha256="0" * 64)  # type: ignore[arg-type]


ANNA, BERT, CHIEF = key("a"), key("b"), key("c", "admin")


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A root with one study package."""
    write_archive(str(tmp_path / "studies" / "pilot"), num_good=2, odd=False)
    return tmp_path / "studies"


@pytest.fixture
def book(studies: Path, tmp_path: Path) -> JobBook:
    """An empty book."""
    return JobBook(
        JobsConfig(results=str(tmp_path / "results"), study_roots=(str(studies),)), AnalyzerConfig(bundles=("/models/one",)), "/studies/markers.yaml"
    )


def request(studies: Path, name: str = "", **more: str) -> JobRequest:
    return JobRequest(manifest_uri=str(studies / "pilot"), name=name, **more)


def code(error: pytest.ExceptionInfo[RequestError]) -> str:
    return error.value.code


def test_the_settings_of_a_job_are_those_of_the_endpoint_over_the_clients_study(book: JobBook, studies: Path) -> None:
    record, is_new = book.claim(ANNA, request(studies), None)
    assert is_new
    folder, _, name = book.prepare(record, request(studies)).rpartition("/")
    settings = from_plain(ScoreConfig, json.loads(Store(folder).read(name)))
    assert settings.analyzer == book.analyzer
    assert settings.markers == "/studies/markers.yaml"
    assert (settings.study, settings.photos_root) == (str(studies / "pilot"), str(studies / "pilot" / "photos"))
    assert Store(settings.results).sub(settings.name).root == book.run(record).root == f"{book.results.root}/aaaaaaaa/{record.job_id}"


def test_the_same_request_with_the_same_idempotency_key_is_one_job(book: JobBook, studies: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: book.claim(ANNA, request(studies), "monday"), range(16)))
    assert len({record.job_id for record, _ in made}) == 1
    assert [is_new for _, is_new in made].count(True) == 1
    other, is_new = book.claim(BERT, request(studies), "monday")
    assert is_new
    assert other.job_id != made[0][0].job_id


def test_the_same_idempotency_key_with_another_request_is_a_conflict(book: JobBook, studies: Path) -> None:
    book.claim(ANNA, request(studies), "monday")
    with pytest.raises(RequestError) as refused:
        book.claim(ANNA, request(studies, name="another"), "monday")
    assert code(refused) == "conflict"


def test_without_an_idempotency_key_every_request_is_a_job(book: JobBook, studies: Path) -> None:
    assert len({book.claim(ANNA, request(studies), None)[0].job_id for _ in range(3)}) == 3


@pytest.mark.parametrize("name", ["", " ", "a b", "a\nb", "ü", "x" * 201])
def test_an_idempotency_key_that_is_none_is_refused(name: str, book: JobBook, studies: Path) -> None:
    with pytest.raises(RequestError) as refused:
        book.claim(ANNA, request(studies), name)
    assert code(refused) == "invalid_option"
    assert book.of(CHIEF) == []


def test_a_job_is_seen_by_its_key_and_by_an_admin_and_looks_like_nothing_to_others(book: JobBook, studies: Path) -> None:
    mine, _ = book.claim(ANNA, request(studies), None)
    yours, _ = book.claim(BERT, request(studies), None)
    assert book.records.find(ANNA, mine.job_id) == book.records.find(CHIEF, mine.job_id) == mine
    assert [record.job_id for record in book.of(ANNA)] == [mine.job_id]
    assert {record.job_id for record in book.of(CHIEF)} == {mine.job_id, yours.job_id}
    words = set()
    for job_id in (yours.job_id, "job-" + "0" * 20, "../bbbbbbbb/" + yours.job_id, "", "."):
        with pytest.raises(RequestError) as refused:
            book.records.find(ANNA, job_id)
        words.add((code(refused), refused.value.detail))
    assert words == {("not_found", "there is no such job")}


@pytest.mark.parametrize(
    "location",
    [
        "{root}/../secret",
        "{root}/pilot/../../secret",
        "{root}-evil/pilot",
        "{root}/./pilot",
        "{root}//pilot",
        "/{root}/pilot",
        "/",
        "/etc",
        "pilot",
        "~/pilot",
        "file://{root}/pilot",
        "https://example.org/pilot",
        "s3://bucket/pilot",
        "s3:///{root}/pilot",
        "{root}/%2e%2e/secret",
        "{root}/link",
        "{root}/link/pilot",
    ],
)
def test_what_lies_outside_the_study_roots_is_refused_without_repeating_it(location: str, book: JobBook, studies: Path, tmp_path: Path) -> None:
    write_archive(str(tmp_path / "secret" / "pilot"), num_good=1, odd=False)
    write_archive(str(tmp_path / "secret"), num_good=1, odd=False)
    write_archive(str(tmp_path / "studies-evil" / "pilot"), num_good=1, odd=False)
    (studies / "link").symlink_to(tmp_path / "secret")
    wanted = JobRequest(manifest_uri=location.format(root=studies))
    with pytest.raises(RequestError) as refused:
        book.claim(ANNA, wanted, None)
    assert code(refused) == "reference_not_allowed"
    assert str(tmp_path) not in refused.value.detail
    with pytest.raises(RequestError) as refused:
        book.claim(ANNA, request(studies, photos_root=location.format(root=studies)), None)
    assert code(refused) == "reference_not_allowed"
    assert book.of(CHIEF) == []


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "a\\b", "", "x" * 2000])
def test_a_location_that_is_none_is_no_request(text: str) -> None:
    with pytest.raises(ValueError, match="manifest_uri"):
        JobRequest(manifest_uri=text)


@pytest.mark.parametrize("named", ["/etc", "../../secret", "s3://other/photos"])
def test_a_package_cannot_name_photos_outside_the_roots(named: str, book: JobBook, studies: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (studies / "pilot" / "study.json").write_text(json.dumps({"photos_root": named}))
    with pytest.raises(RequestError) as refused:
        book.claim(ANNA, request(studies), None)
    assert code(refused) == "reference_not_allowed"


def test_a_description_of_a_study_that_is_huge_or_broken_is_refused_unread(book: JobBook, studies: Path) -> None:
    for text in ("x" * (2**20 + 1), "{", '{"photos_root": 7}'):
        (studies / "pilot" / "study.json").write_text(text)
        with pytest.raises(RequestError) as refused:
            book.claim(ANNA, request(studies), None)
        assert code(refused) == "invalid_option"


@pytest.mark.parametrize("there", ["", "empty", "pilot/images.csv", "pilot/photos", "nothing"])
def test_where_no_package_is_nothing_is_found(there: str, book: JobBook, studies: Path) -> None:
    (studies / "empty").mkdir()
    with pytest.raises(RequestError) as refused:
        book.claim(ANNA, JobRequest(manifest_uri=f"{studies}/{there}".rstrip("/")), None)
    assert code(refused) == "reference_not_found"


def test_the_images_table_itself_and_a_root_behind_a_link_are_taken(studies: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(studies)
    book = JobBook(JobsConfig(results=str(tmp_path / "results"), study_roots=(str(tmp_path / "link"),)), AnalyzerConfig(bundles=("/models/one",)), "")
    record, _ = book.claim(ANNA, JobRequest(manifest_uri=f"{tmp_path}/link/pilot/images.parquet"), None)
    settings = json.loads(Path(book.prepare(record, JobRequest(manifest_uri=f"{tmp_path}/link/pilot/images.parquet"))).read_text())
    assert settings["study"] == str(studies / "pilot" / "images.parquet")


def test_a_bucket_and_its_prefix_hold_what_lies_below_them_and_not_their_neighbours() -> None:
    roots = ("s3://bucket/studies", "s3://whole")
    assert inside("s3://bucket/studies/pilot/", roots) == "s3://bucket/studies/pilot"
    assert inside("s3://whole/pilot", roots) == "s3://whole/pilot"
    for outside in ("s3://bucket/studies-2/pilot", "s3://bucket/pilot", "s3://wholesale/pilot", "s3://bucket/studies/../pilot", "s3://bucket/studies//pilot"):
        with pytest.raises(RequestError) as refused:
            inside(outside, roots)
        assert code(refused) == "reference_not_allowed", outside
