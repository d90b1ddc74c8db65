"""Files over http in pieces that add up: a transfer that was interrupted continues where it stopped."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import requests
import urllib3

from geomformer.errors import DataError
from geomformer.files import check_space, write_atomic

logger = logging.getLogger(__name__)

CONNECT_SECONDS, READ_SECONDS = 20.0, 60.0
ATTEMPTS = 4
"""Connections in a row that bring nothing before a source is given up."""
PAUSE = 1.0
"""Seconds before the second attempt; doubles with every further one."""
LONGEST_PAUSE = 60.0
CHUNK = 2**16
"""Bytes; what is lost when a connection breaks, so that a slow one gets on too."""
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})

Report = Callable[[int, int | None], None]
"""Called with the bytes so far and the size of the file, where the server tells it."""


class Unavailable(Exception):  # noqa: N818 - read as a sentence: the source is unavailable
    """A source cannot give the file; the message says why."""


class _Dropped(Exception):  # noqa: N818 - a state of the connection
    """A connection broke, or the server asks to come back; another attempt may help.

    Attributes:
        wait: seconds the server asks to wait.
    """

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class _State:
    """Where the bytes of a part come from, kept beside it: bytes of another version must not be added to them.

    Attributes:
        url: the source.
        etag: the server's name of the version.
        last_modified: the server's date of the version.
        total: size of the whole file in bytes.
    """

    url: str
    etag: str | None = None
    last_modified: str | None = None
    total: int | None = None

    @property
    def validator(self) -> str | None:
        """The header value that names the version; a weak ETag may name several."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    def fits(self, other: _State) -> bool:
        """Says whether another answer may be about the same bytes; of another source only the size tells."""
        names = ("etag", "last_modified", "total") if self.url == other.url else ("total",)
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return all(ours is None or theirs is None or ours == theirs for ours, theirs in pairs)


def state_path(part: Path) -> Path:
    """Returns where the origin of a part is noted."""
    return part.with_name(part.name + ".json")


def remove(part: Path) -> None:
    """Removes a part and the note of its origin."""
    part.unlink(missing_ok=True)
    state_path(part).unlink(missing_ok=True)


def origin(part: Path) -> str | None:
    """Returns the source that a part was begun from, or None."""
    state = _read_state(part)
    return state.url if state is not None else None


def transfer(url: str, part: Path, *, checksum_known: bool, report: Report) -> None:
    """Brings a file into `part`, from where an earlier transfer stopped; broken connections are taken up again.

    Args:
        url: the source.
        part: file for the bytes; its origin is noted in `PART.json`.
        checksum_known: the result will be compared with a published checksum, so that a part may also be continued
            where the server names no version, or from another source.
        report: told of the progress.

    Raises:
        Unavailable: the source does not answer, or not with the file; what came before is kept.
        DataError: the disk is full or cannot be written to.
    """
    failures, furthest = 0, _size(part)
    with requests.Session() as session:
        while True:
            try:
                return _attempt(session, url, part, checksum_known, report)
            except _Dropped as dropped:
                # Only a part that outgrows all before it is progress: a server without ranges starts over each time.
                failures = 0 if _size(part) > furthest else failures + 1
                furthest = max(furthest, _size(part))
                if failures >= ATTEMPTS:
                    raise Unavailable(str(dropped)) from dropped
                pause = min(max(PAUSE * 2 ** max(failures - 1, 0), dropped.wait), LONGEST_PAUSE)
                logger.info("%s: %s; trying again in %.0f s", url, dropped, pause)
                time.sleep(pause)


def _attempt(session: requests.Session, url: str, part: Path, checksum_known: bool, report: Report) -> None:
    known, start = _read_state(part), _size(part)
    if known is None or not (checksum_known or (known.url == url and known.validator)):
        known, start = None, 0
    if known is not None and known.total is not None and start == known.total:
        return
    headers = {"Accept-Encoding": "identity"}
    if known is not None and start:
        headers["Range"] = f"bytes={start}-"
        if known.url == url and known.validator:
            headers["If-Range"] = known.validator
    try:
        with session.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as response:
            _check_status(response, part)
            found = _described(url, response)
            if response.status_code == 206:
                _check_range(response, found, known, start, part)
            else:
                start = 0
            check_space(part.parent, max((found.total or 0) - start, 0), part.stem)
            _receive(response, part, start, found, report)
    except requests.exceptions.SSLError as error:
        raise Unavailable(f"its certificate is not accepted ({error})") from error
    except requests.RequestException as error:
        if isinstance(_cause(error), urllib3.exceptions.NameResolutionError):
            raise Unavailable("its name is not known here (no network?)") from error
        raise _Dropped(_reason(error)) from error


def _check_status(response: requests.Response, part: Path) -> None:
    status = response.status_code
    if status == 416:
        remove(part)
        raise _Dropped("the file there is shorter than the part that was here, which is removed")
    if status in _TRANSIENT:
        wait = response.headers.get("Retry-After", "")
        raise _Dropped(f"{status} {response.reason}", float(wait) if wait.isdecimal() else 0.0)
    if status not in (200, 206):
        raise Unavailable(f"{status} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise Unavailable("a web page came instead of the file")


def _described(url: str, response: requests.Response) -> _State:
    headers = response.headers
    size = headers.get("Content-Range", "").rpartition("/")[2] if response.status_code == 206 else ""
    if response.status_code == 200:
        size = headers.get("Content-Length", "")
    return _State(url, headers.get("ETag"), headers.get("Last-Modified"), int(size) if size.isdecimal() else None)


def _check_range(response: requests.Response, found: _State, known: _State | None, start: int, part: Path) -> None:
    """Makes sure that the bytes that come belong after those that are here."""
    answer = response.headers.get("Content-Range", "")
    if known is None or not answer.startswith(f"bytes {start}-") or not known.fits(found):
        remove(part)
        raise _Dropped("the file there is not the one that was begun, which is removed")


def _receive(response: requests.Response, part: Path, start: int, found: _State, report: Report) -> None:
    done = start
    try:
        if not start:
            # Emptied before its origin is noted: old bytes must never stand under the new name.
            part.write_bytes(b"")
        write_atomic(state_path(part), json.dumps(asdict(found)))
        with part.open("ab") as handle:
            report(done, found.total)
            # Undecoded: a server that marks a .gz file as compressed for the way means the file itself.
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                handle.write(chunk)
                done += len(chunk)
                report(done, found.total)
            handle.flush()
            os.fsync(handle.fileno())
    except urllib3.exceptions.HTTPError as error:
        raise _Dropped(f"the connection broke after {done} bytes") from error
    except OSError as error:
        raise DataError(
            f"Cannot write {part}: {error.strerror or error}.", "What came so far is kept; run again to continue."
        ) from error
    if found.total is not None and done < found.total:
        raise _Dropped(f"the connection ended after {done} of {found.total} bytes")


def _read_state(part: Path) -> _State | None:
    """Returns the origin of a part; None where there is no part or its origin is not known."""
    try:
        fields = json.loads(state_path(part).read_text(encoding="utf-8"))
        return _State(**fields) if _size(part) else None
    except (OSError, ValueError, TypeError):
        return None


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _cause(error: requests.RequestException) -> object:
    """Returns what urllib3 says went wrong, behind the exceptions of requests."""
    return getattr(error.args[0], "reason", error) if error.args else error


def _reason(error: requests.RequestException) -> str:
    """Returns what went wrong without the addresses of Python objects."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    cause = _cause(error)
    text = str(cause).rpartition(": ")[2]
    return f"no connection ({text})" if isinstance(error, requests.ConnectionError) else str(cause)
