"""What clients send and get about jobs: the scoring of a whole manifest."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from foodray.analyzer.messages import Message

State = Literal["queued", "running", "succeeded", "succeeded_with_quarantine", "failed", "stopped"]
Location = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f\\]+$")]


class JobRequest(Message):
    """A manifest to be scored."""

    model_config = ConfigDict(json_schema_extra={"example": {"manifest_uri": "s3://studies/pilot", "name": "pilot, first week"}})

    manifest_uri: Location = Field(description="a study package or its images table, below a folder that the endpoint takes studies from")
    photos_root: Location | None = Field(None, description="where image_uri starts, if the package does not say; below such a folder too")
    name: Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")] = Field("", description="for people; shown back")


class JobProgress(Message):
    """How far a job is."""

    photos: int = Field(description="photos done by this submission")
    total: int = Field(description="photos that it has to do")
    ok: int
    ok_no_food: int
    quarantined: int
    photos_per_s: float
    eta_s: int | None = Field(description="seconds still to go; null before the rate is known")


class JobReply(Message):
    """A job."""

    job_id: str
    name: str
    manifest_uri: str
    state: State = Field(description="succeeded_with_quarantine: the tables are there, but more photos are in quarantine than is usual")
    created_at: str = Field(description="UTC, ISO 8601")
    started_at: str | None = None
    finished_at: str | None = None
    progress: JobProgress | None = None
    accounting: dict[str, Any] | None = Field(None, description="how many rows of the manifest ended where, once the tables are there")
    tables: dict[str, str] | None = Field(None, description="file name to its path at this endpoint, once they are there")
    error: str | None = Field(None, description="with state failed: what was wrong, in words")


class JobsReply(Message):
    """The jobs of a key, the newest first."""

    jobs: list[JobReply]
