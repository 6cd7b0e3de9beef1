"""Every error foodray raises on purpose, so that a caller can catch one family of them.

FoodrayError
├── ConfigError       a setting is unknown, impossible, or contradicts another one
├── StudyError        a study package breaks its schema; carries every problem found, not only the first
├── PhotoError        a photo was refused; carries the reason code of the quarantine table
├── MaskError         a mask cannot be read, drawn or placed on its photo; carries the reason
├── CorpusError       a corpus is missing, unfinished, empty, or lacks what a task needs
├── SplitError        a split leaks, or cannot be made from the groups there are
├── StorageError      a path cannot be read or written
│   └── ExistsError   something is already there; foodray never replaces what a run did not make
├── BundleError       a model bundle is incomplete, altered, or of another kind
├── ScoringError      the books of a scoring run do not balance, or its tables are not what they must be
│   ├── RunningError     another submission scores the same run at this moment
│   └── QuarantineError  more photos are in quarantine than the study allows
├── RequestError      the endpoint refuses a request; carries the stable code (`foodray.serving.problems`, where HTTP is known)
└── ClusterError      the cluster cannot run what was asked: resources, shared storage, workers
"""

from collections.abc import Sequence


class FoodrayError(Exception):
    """The root: its message says what was wrong, the value, and what to do."""


class ConfigError(FoodrayError):
    """A setting is unknown, impossible, or contradicts another one."""


class StudyError(FoodrayError):
    """A study package breaks its schema. `problems` holds one sentence per problem, in row order."""

    def __init__(self, source: str, problems: Sequence[str], *, shown: int = 50) -> None:
        self.source, self.problems = source, list(problems)
        lines = self.problems[:shown]
        if len(self.problems) > shown:
            lines.append(f"… and {len(self.problems) - shown} more")
        noun = "problem" if len(self.problems) == 1 else "problems"
        super().__init__("\n  ".join([f"{source}: {len(self.problems)} {noun}", *lines]))

    def __reduce__(self) -> tuple[type, tuple[str, list[str]]]:
        return (StudyError, (self.source, self.problems))


class PhotoError(FoodrayError):
    """A photo was refused. `reason` is one of `foodray.corpus.schema.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return (PhotoError, (self.reason, self.detail))


class MaskError(FoodrayError):
    """A mask cannot be read, drawn or placed on its photo. `reason` is one of `foodray.corpus.masks.MASK_REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return (MaskError, (self.reason, self.detail))


class CorpusError(FoodrayError):
    """A corpus is missing, unfinished, empty, or lacks what a task needs."""


class SplitError(FoodrayError):
    """A split leaks, or cannot be made from the groups there are."""


class StorageError(FoodrayError):
    """A path cannot be read or written."""


class ExistsError(StorageError):
    """Something is already there; foodray never replaces what a run did not make."""


class BundleError(FoodrayError):
    """A model bundle is incomplete, altered, or of another kind."""


class ScoringError(FoodrayError):
    """The books of a scoring run do not balance, or its tables are not what they must be."""


class ClusterError(FoodrayError):
    """The cluster cannot run what was asked: resources, shared storage, workers."""


class RunningError(ScoringError):
    """Another submission scores the same run at this moment."""


class QuarantineError(ScoringError):
    """More photos were quarantined than the study allows; the tables are written."""
