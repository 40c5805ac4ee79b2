"""What becomes of a result that the database does not take? `Spool` keeps it on disk until it does.

A score takes minutes of a GPU, and a database may be away just then, or for as long as the process
lives. So the result is written to a file, flushed to the disk, before the database is asked again
(`search.patience`). The file is removed when the database has it. A process that dies in between
leaves the file, and the next one that works on the study with the same user on the same machine
writes what it holds, once: a finished choice is a unique key, and so is a score.

    spool = Spool.of("db.example:5432/studies", folder)
    spool.deliver(result, lambda: log.finish(tried), noted=print)
    spool.replay(study, write, noted=print)        # at the start, and before each trial

Files. `<folder>/<digest of the database>/<study>/<digest of the result>.json`; scores, which any
study may use, lie in `scores` in the place of a study. A file is JSON with a checksum. It is
written under another name, flushed and renamed, and so is its folder's entry. One that is torn or
changed is set aside under another name, and said. Files are for their owner alone.

What it does not do: carry results to another machine, or keep them where the disk is full too.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
from pydantic import BaseModel, ConfigDict, ValidationError

from sensitivity.core.file_names import slug
from sensitivity.core.json_files import write_whole
from sensitivity.core.outside_files import Bounds, read_json
from sensitivity.core.words import first_line, printable
from sensitivity.errors import FormatError, LostDatabaseError, OutputError, StoreError
from sensitivity.fidelity.score import Score
from sensitivity.search.candidates import Choice
from sensitivity.search.patience import patient
from sensitivity.search.stopping import Stop
from sensitivity.search.trials import ScoredTrial, StoppedTrial, Tried

T = TypeVar("T")

SCORES = "scores"
"""In the place of a study: results that any study may use."""
FORMAT = 1
_BOUNDS = Bounds(max_bytes=64 * 2**20, max_values=4_000_000)
"""Of a file: a score with the distances of all frames of a hundred clips has 1 MB."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptScore:
    """A score that is to be written.

    Attributes:
        evaluation, assignment: its key (`search.store`).
        score: what was computed.
        seconds: what that took.
        replaces: whether it replaces one that is there.
    """

    evaluation: str
    assignment: str
    score: Score
    seconds: float
    replaces: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptTrial:
    """A finished trial that is to be written.

    Attributes:
        study: its name.
        tried: the trial. The index that it has once it is written may be another one.
        extra: what else is kept with it, as JSON can hold it.
    """

    study: str
    tried: Tried
    extra: Mapping[str, Any] = field(default_factory=dict)


Kept = KeptScore | KeptTrial


class _Score(BaseModel):
    """The JSON of a `KeptScore`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    evaluation: str
    assignment: str
    score: dict[str, Any]
    seconds: float
    replaces: bool


class _Trial(BaseModel):
    """The JSON of a `KeptTrial`: a score, or where it stopped."""

    model_config = ConfigDict(extra="forbid")

    study: str
    index: int
    number: int
    choice: Choice
    label: str
    latency_s: float
    seconds: float
    score: dict[str, Any] | None
    stopped: Stop | None
    extra: dict[str, Any]


def default_spool_folder() -> Path:
    """Where results wait by default: in the user's cache folder, beside the references."""
    return Path(platformdirs.user_cache_dir("sensitivity")) / "spool"


@dataclass(frozen=True)
class Spool:
    """The results of one database that wait to be written to it. Make it with `of`."""

    folder: Path

    @classmethod
    def of(cls, database: str, folder: Path) -> "Spool":
        """The spool of a database.

        Args:
            database: what tells it from others: the absolute path of a file, or the host, port
                and name on a server. No password.
            folder: that of all spools of this user.
        """
        return cls(folder / hashlib.sha256(database.encode()).hexdigest()[:32])

    def deliver(
        self, kept: Kept, write: Callable[[], T], *, noted: Callable[[str], Any] = log.warning
    ) -> T:
        """What `write` returns, which writes a result to the database.

        Where the database does not answer, the result waits on disk, and `write` is called again
        until it does (`search.patience`). Where the database refuses for another reason, such as a
        full disk of the server, or Ctrl-C or a signal comes just then, it waits on disk for the
        next start, and the error passes.

        Args:
            kept: the result.
            write: writes it. It may be called many times, and the result must be there once.
            noted: called with a text where a result waits.

        Raises:
            UnreachableError: the database did not come back; the message names the file.
            SensitivityError: as `write` raises it.
        """
        try:
            return write()
        except LostDatabaseError:
            with self._waiting(kept, noted) as path:
                then = "run the same command when it is back, it goes on"
                if path is not None:
                    then = f"the result waits in {path}; {then}"
                return patient(write, noted=noted, then=then)
        except (StoreError, OutputError, KeyboardInterrupt, SystemExit):
            with suppress(_StayError), self._waiting(kept, noted):
                raise _StayError from None
            raise

    def replay(
        self,
        study: str,
        *,
        score: Callable[[KeptScore], Any],
        trial: Callable[[KeptTrial], Any],
        noted: Callable[[str], Any] = log.warning,
    ) -> int:
        """Write the results that wait, of a study and of all: the oldest first.

        Args:
            study: its name.
            score, trial: write one. A result that is there already must stay as it is.
            noted: called with a text for results that were written, or set aside.

        Returns how many were written. Raises what the functions raise; the result waits on.
        """
        count = 0
        for path in self._files(study):
            kept = self._read(path, noted)
            if isinstance(kept, KeptScore):
                score(kept)
            elif kept is None or kept.study != study:
                continue
            else:
                try:
                    trial(kept)
                except (FormatError, ValueError) as error:
                    _set_aside(path, first_line(error), noted)
                    continue
            path.unlink(missing_ok=True)
            count += 1
        if count:
            noted(f"{count} result(s) that waited in {self.folder} are written to the database")
        return count

    def waiting(self) -> list[Path]:
        """The files of all results that wait, of every study."""
        return _in_order(self.folder.glob("*/*.json"))

    def path_of(self, kept: Kept) -> Path:
        """The file of a result, which may be missing."""
        if isinstance(kept, KeptScore):
            folder, identity = SCORES, [kept.evaluation, kept.assignment]
        else:
            folder, identity = slug(kept.study), [kept.study, *map(str, kept.tried.choice)]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        return self.folder / folder / f"{digest[:40]}.json"

    @contextmanager
    def _waiting(self, kept: Kept, noted: Callable[[str], Any]) -> Iterator[Path | None]:
        """The result is on disk, and is removed if nothing is raised inside.

        Yields its file; None where it cannot be written, which is said.
        """
        path: Path | None = self.path_of(kept)
        try:
            _write(self.path_of(kept), _to_json(kept))
        except (OSError, OutputError, ValueError) as error:
            path = None
            noted(
                f"the database does not take a result, and it cannot be kept in {self.folder}"
                f" either ({printable(first_line(error))}): it is lost if this process ends"
            )
        else:
            noted(f"the database does not take a result: it waits in {path}")
        yield path
        if path is not None:
            path.unlink(missing_ok=True)

    def _files(self, study: str) -> list[Path]:
        folders = (self.folder / SCORES, self.folder / slug(study))
        return [path for folder in folders for path in _in_order(folder.glob("*.json"))]

    def _read(self, path: Path, noted: Callable[[str], Any]) -> Kept | None:
        """What a file holds; None where another process has written it meanwhile, or where it is
        not what was written: then it is set aside.
        """
        try:
            found = read_json(path, _BOUNDS)
            if not isinstance(found, dict) or found.get("checksum") != _checksum(found.get("kept")):
                raise ValueError("it does not fit its checksum")
            return _from_json(found["kept"])
        except FileNotFoundError:
            return None
        except ValidationError as error:
            _set_aside(path, error.errors(include_url=False)[0]["msg"], noted)
        except (OSError, ValueError, StoreError) as error:
            _set_aside(path, first_line(error), noted)
        return None


class _StayError(Exception):
    """Lets a result stay on disk."""


def _to_json(kept: Kept) -> dict[str, Any]:
    if isinstance(kept, KeptScore):
        return {
            "format": FORMAT,
            "score": {
                "evaluation": kept.evaluation,
                "assignment": kept.assignment,
                "score": kept.score.to_json(),
                "seconds": kept.seconds,
                "replaces": kept.replaces,
            },
        }
    tried = kept.tried
    return {
        "format": FORMAT,
        "trial": {
            "study": kept.study,
            "index": tried.index,
            "number": tried.number,
            "choice": list(tried.choice),
            "label": tried.label,
            "latency_s": tried.latency_s,
            "seconds": tried.seconds,
            "score": tried.score.to_json() if isinstance(tried, ScoredTrial) else None,
            "stopped": tried.stop.to_json() if isinstance(tried, StoppedTrial) else None,
            "extra": dict(kept.extra),
        },
    }


def _from_json(data: Mapping[str, Any]) -> Kept:
    """Raises ValueError or StoreError where it is not what `_to_json` gives."""
    if data.get("format") != FORMAT:
        raise ValueError(f"it has the format {data.get('format')!r}; expected {FORMAT}")
    if "score" in data:
        row = _Score.model_validate(data["score"])
        return KeptScore(**row.model_dump() | {"score": Score.from_json(row.score)})
    read = _Trial.model_validate(data.get("trial"))
    common: dict[str, Any] = {
        "index": read.index,
        "number": read.number,
        "choice": read.choice,
        "latency_s": read.latency_s,
        "seconds": read.seconds,
    }
    tried: Tried
    if read.stopped is not None:
        tried = StoppedTrial(**common, stop=read.stopped)
    else:
        tried = ScoredTrial(**common, label=read.label, score=Score.from_json(read.score or {}))
    return KeptTrial(study=read.study, tried=tried, extra=read.extra)


def _checksum(kept: object) -> str:
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _write(path: Path, kept: Mapping[str, Any]) -> None:
    """Write a file and flush it, and the entry of its folder, to the disk."""
    text = json.dumps({"checksum": _checksum(kept), "kept": kept}, allow_nan=False)
    made = path.parent
    made.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, text.encode())
    for folder in (made, made.parent, made.parent.parent):
        _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _set_aside(path: Path, why: str, noted: Callable[[str], Any]) -> None:
    """Give a file that is not what was written another name, and say so."""
    aside = path.with_suffix(".damaged")
    with suppress(OSError):
        path.replace(aside)
    noted(f"a result that waited is not what was written ({printable(why)}): it is kept as {aside}")


def _in_order(paths: Iterator[Path]) -> list[Path]:
    """Files by the time of their last change, then by name; those that are gone are left out."""
    found = []
    for path in paths:
        with suppress(OSError):
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)]
