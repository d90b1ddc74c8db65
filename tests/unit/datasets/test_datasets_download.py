from __future__ import annotations

import hashlib
import io
import json
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import requests
import urllib3

from geomformer import files
from geomformer.datasets.raw import download, transfer
from geomformer.datasets.raw.download import RemoteFile, fetch, fetch_all, raw_files
from geomformer.errors import DataError

CONTENT = np.random.default_rng(1).bytes(300_000)
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@dataclass
class Site:
    """A web server of this test and what it is to do wrong.

    Attributes:
        url: its address.
        content: the file it has under every path but those of `answers`.
        etag: version of the file, sent where not None.
        ranges: whether it knows ranges.
        drops: after how many bytes it breaks the next connections, one entry each.
        answers: status by path.
        requests: path, Range and If-Range of every request.
    """

    url: str = ""
    content: bytes = CONTENT
    etag: str | None = '"one"'
    ranges: bool = True
    kind: str = "application/octet-stream"
    honours_if_range: bool = True
    drops: list[int] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted, condition = self.headers["Range"], self.headers["If-Range"]
                site.requests.append((self.path, wanted, condition))
                if self.path in site.answers:
                    self.send_error(site.answers[self.path])
                    return
                valid = condition is None or condition == site.etag or not site.honours_if_range
                start = int(wanted[6:-1]) if site.ranges and wanted and valid else 0
                if start >= len(site.content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
                if site.etag is not None:
                    self.send_header("ETag", site.etag)
                self.send_header("Content-Type", site.kind)
                self.send_header("Content-Length", str(len(site.content) - start))
                self.end_headers()
                end = start + site.drops.pop(0) if site.drops else len(site.content)
                self.wfile.write(site.content[start:end])

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def serve() -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), site.handler())
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


site = pytest.fixture(serve, name="site")
other_site = pytest.fixture(serve, name="other_site")


@pytest.fixture
def closed() -> str:
    """Returns an address where nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    monkeypatch.setattr(transfer, "CHUNK", 4096)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def begin(site: Site, folder: Path, count: int, known_hash: str | None = MD5) -> RemoteFile:
    """Leaves a part of about `count` bytes, as a run that was killed does."""
    file = RemoteFile("data.tar", f"{site.url}/data.tar", known_hash, len(CONTENT))

    def stop(done: int, total: int | None) -> None:
        if done >= count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(file, folder, progress=stop)
    assert count <= (folder / "data.tar.part").stat().st_size < len(CONTENT)
    site.requests.clear()
    return file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("known_hash", [MD5, SHA256])
def test_a_file_is_fetched_once_and_checked(site: Site, tmp_path: Path, known_hash: str) -> None:
    folder = tmp_path / "raw" / "qm9"
    file = RemoteFile("data.tar", f"{site.url}/data.tar", known_hash)
    seen: list[tuple[int, int | None]] = []
    path = fetch(file, folder, progress=lambda done, total: seen.append((done, total)))
    assert path == folder / "data.tar" and path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert names(folder) == ["data.tar"]
    fetch(file, folder)
    assert len(site.requests) == 1


@pytest.mark.parametrize("known_hash", [MD5, None])
def test_a_killed_download_continues(site: Site, tmp_path: Path, known_hash: str | None) -> None:
    file = begin(site, tmp_path, 100_000, known_hash)
    size = (tmp_path / "data.tar.part").stat().st_size
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert site.requests == [("/data.tar", f"bytes={size}-", '"one"')]


def test_a_part_that_was_complete_is_not_asked_for_again(site: Site, tmp_path: Path) -> None:
    file = begin(site, tmp_path, 1)
    (tmp_path / "data.tar.part").write_bytes(CONTENT)
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert site.requests == []


def test_two_that_want_the_same_file_fetch_it_once(site: Site, tmp_path: Path) -> None:
    file = RemoteFile("data.tar", f"{site.url}/data.tar", MD5)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(file, tmp_path), range(4)))
    assert set(paths) == {tmp_path / "data.tar"} and len(site.requests) == 1
    assert names(tmp_path) == ["data.tar"]


def test_dropped_connections_are_taken_up(site: Site, tmp_path: Path) -> None:
    site.drops = [50_000] * 5
    file = RemoteFile("data.tar", f"{site.url}/data.tar", MD5)
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    starts = [int(wanted[6:-1]) for _, wanted, _ in site.requests if wanted]
    assert starts == [50_000, 100_000, 150_000, 200_000, 250_000]


def test_a_server_without_ranges_starts_over_and_is_given_up_in_the_end(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.drops = [50_000]
    file = RemoteFile("data.tar", f"{site.url}/data.tar", MD5)
    assert fetch(file, tmp_path / "a").read_bytes() == CONTENT
    site.drops = [50_000] * 99
    with pytest.raises(DataError, match=r"the connection broke after \d+ bytes.*are kept in data.tar.part"):
        fetch(file, tmp_path / "b")
    assert len(site.requests) < 10


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_a_changed_file_is_not_glued_to_the_old_part(site: Site, tmp_path: Path, honours_if_range: bool) -> None:
    file = begin(site, tmp_path, 100_000, known_hash=None)
    site.content, site.etag, site.honours_if_range = CONTENT[::-1], '"two"', honours_if_range
    assert fetch(file, tmp_path).read_bytes() == CONTENT[::-1]


def test_a_part_of_unknown_version_is_continued_only_under_a_checksum(site: Site, tmp_path: Path) -> None:
    site.etag = None
    for known_hash, continued in ((None, False), (MD5, True)):
        folder = tmp_path / str(continued)
        file = begin(site, folder, 100_000, known_hash)
        assert fetch(file, folder).read_bytes() == CONTENT
        assert [wanted is not None for _, wanted, _ in site.requests] == [continued]


def test_a_part_longer_than_the_file_is_dropped(site: Site, tmp_path: Path) -> None:
    file = begin(site, tmp_path, 1)
    (tmp_path / "data.tar.part").write_bytes(CONTENT + CONTENT)
    assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_mirrors_come_in_order_and_continue_each_other(site: Site, other_site: Site, tmp_path: Path) -> None:
    site.answers = {"/data.tar": 404}
    file = RemoteFile("data.tar", f"{site.url}/data.tar", MD5, mirrors=(f"{other_site.url}/copy.tar",))
    assert fetch(file, tmp_path / "a").read_bytes() == CONTENT
    assert [path for path, _, _ in site.requests] == ["/data.tar"]
    site.answers = {}
    begin(site, tmp_path / "b", 100_000)
    site.answers = {"/data.tar": 503}
    other_site.requests.clear()
    assert fetch(file, tmp_path / "b").read_bytes() == CONTENT
    assert other_site.requests[0][1] is not None and other_site.requests[0][2] is None
    secure = RemoteFile("a", "http://a", mirrors=("https://b", "http://c", "https://d"))
    assert secure.urls == ("https://b", "https://d", "http://a", "http://c")


@pytest.mark.parametrize(("status", "times"), [(404, 1), (202, 1), (503, transfer.ATTEMPTS)])
def test_errors_of_a_server_are_named(site: Site, tmp_path: Path, status: int, times: int) -> None:
    site.answers = {"/data.tar": status}
    with pytest.raises(DataError, match=f"data.tar: {status} "):
        fetch(RemoteFile("data.tar", f"{site.url}/data.tar"), tmp_path)
    assert len(site.requests) == times


def test_a_web_page_is_not_taken_for_the_file(site: Site, tmp_path: Path) -> None:
    site.kind = "text/html; charset=utf-8"
    with pytest.raises(DataError, match="a web page came"):
        fetch(RemoteFile("data.tar", f"{site.url}/data.tar"), tmp_path)


def test_a_wrong_checksum_deletes_the_part_and_tries_the_mirror(site: Site, other_site: Site, tmp_path: Path) -> None:
    site.content = CONTENT[::-1]
    file = RemoteFile("data.tar", f"{site.url}/data.tar", MD5)
    with pytest.raises(DataError, match=rf"expected the checksum {MD5}, found md5:.*deleted"):
        fetch(file, tmp_path / "a")
    assert not (tmp_path / "a" / "data.tar").exists() and not (tmp_path / "a" / "data.tar.part").exists()
    mirrored = RemoteFile("data.tar", f"{site.url}/data.tar", MD5, mirrors=(f"{other_site.url}/data.tar",))
    assert fetch(mirrored, tmp_path / "b").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "it is empty"), (CONTENT[:999], "it ends early"), (None, r"kB\)\.")]
)
def test_a_wrong_file_of_the_final_name_is_kept_and_explained(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "data.tar"
    data = CONTENT[::-1] if content is None else content
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"Expected the checksum {MD5} \(about 300.0 kB\) of .*{words}") as caught:
        fetch(RemoteFile("data.tar", "http://unused", MD5, len(CONTENT)), tmp_path)
    assert "Delete it and run again" in str(caught.value) and "--raw" in str(caught.value)
    assert path.read_bytes() == data


def test_without_a_published_checksum_a_change_is_noticed(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = RemoteFile("data.tar", f"{site.url}/data.tar")
    with caplog.at_level(logging.INFO):
        path = fetch(file, tmp_path)
    assert SHA256 in caplog.text
    assert (tmp_path / "data.tar.sha256").read_text() == f"{SHA256[7:]}  data.tar\n"
    fetch(file, tmp_path)
    path.write_bytes(b"other")
    with pytest.raises(DataError, match=rf"{SHA256}.*found sha256:.*Delete it and data.tar.sha256"):
        fetch(file, tmp_path)
    (tmp_path / "own.tar").write_bytes(b"of the user")
    assert fetch(RemoteFile("own.tar", file.url), tmp_path).exists()
    assert (tmp_path / "own.tar.sha256").exists()


def test_offline_the_message_says_what_to_put_where(closed: str, tmp_path: Path) -> None:
    file = RemoteFile("data.tar", f"{closed}/data.tar", MD5, mirrors=(f"{closed}/copy",))
    with pytest.raises(DataError) as caught:
        fetch(file, tmp_path)
    assert caught.value.exit_code == 3
    for words in (*file.urls, "Connection refused", f"put it into {tmp_path}", "--raw", "data.tar"):
        assert words in str(caught.value)
    assert "object at 0x" not in str(caught.value)


def test_offline_all_files_that_are_needed_are_named(closed: str, tmp_path: Path) -> None:
    files = [RemoteFile(name, f"{closed}/{name}", MD5) for name in ("here.tar", "data.tar", "more.tar")]
    (tmp_path / "here.tar").write_bytes(CONTENT)
    with pytest.raises(DataError, match=r"Cannot download data.tar") as caught:
        fetch_all(files, tmp_path)
    assert f"Also needed: more.tar ({closed}/more.tar)." in str(caught.value) and "here.tar" not in str(caught.value)


def test_a_name_that_nobody_knows_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def get(*args: object, **options: object) -> requests.Response:
        calls.append(args)
        reason = urllib3.exceptions.NameResolutionError("x", urllib3.connection.HTTPConnection("x"), OSError("unknown"))
        raise requests.ConnectionError(urllib3.exceptions.MaxRetryError(urllib3.HTTPConnectionPool("x"), "/", reason))

    monkeypatch.setattr(requests.Session, "get", get)
    with pytest.raises(DataError, match="its name is not known here"):
        fetch(RemoteFile("data.tar", "https://x", MD5), tmp_path)
    assert len(calls) == 1


def test_a_bad_certificate_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def get(*args: object, **options: object) -> requests.Response:
        calls.append(args)
        raise requests.exceptions.SSLError("self-signed certificate")

    monkeypatch.setattr(requests.Session, "get", get)
    with pytest.raises(DataError, match=r"certificate is not accepted \(self-signed certificate\)"):
        fetch(RemoteFile("data.tar", "https://x", MD5), tmp_path)
    assert len(calls) == 1


def test_the_time_a_server_asks_for_is_kept_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    response = requests.Response()
    response.status_code, response.reason = 429, "Too Many Requests"
    response.raw = io.BytesIO()
    response.headers["Retry-After"] = "100000"
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setattr(requests.Session, "get", lambda *args, **options: response)
    with pytest.raises(transfer.Unavailable, match="429"):
        transfer.transfer("http://x", tmp_path / "a.part", checksum_known=False, report=lambda done, total: None)
    assert pauses == [transfer.LONGEST_PAUSE] * (transfer.ATTEMPTS - 1)


def test_space_is_checked_before_and_counts_what_is_there(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = begin(site, tmp_path, 200_000)
    usage = files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage._replace(free=150_000))
    with pytest.raises(DataError, match=r"300.0 kB .*found 150.0 kB"):
        fetch(file, tmp_path / "other")
    unknown = RemoteFile("data.tar", file.url, MD5)
    with pytest.raises(DataError, match=r"300.0 kB .*found 150.0 kB"):
        fetch(unknown, tmp_path / "another")
    second = RemoteFile("second", file.url, MD5, 100_000)
    with pytest.raises(DataError, match=r"the download in .*found 150.0 kB"):
        fetch_all([file, second], tmp_path)
    assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_a_full_disk_keeps_the_part(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    file = RemoteFile("data.tar", f"{site.url}/data.tar", MD5)
    with monkeypatch.context() as patch:
        patch.setattr(transfer.os, "fsync", full)
        patch.setattr(transfer, "write_atomic", lambda path, data: path.write_text(data))
        with pytest.raises(DataError, match=r"data.tar.part: No space left on device.*run again to continue"):
            fetch(file, tmp_path)
    assert len(site.requests) == 1
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_a_note_that_is_damaged_starts_over(site: Site, tmp_path: Path) -> None:
    for text in ("", "[1]", json.dumps({"address": "x"})):
        file = begin(site, tmp_path, 100_000)
        (tmp_path / "data.tar.part.json").write_text(text)
        assert fetch(file, tmp_path).read_bytes() == CONTENT
        assert site.requests == [("/data.tar", None, None)]
        (tmp_path / "data.tar").unlink()


def test_raw_files_come_from_the_user_then_the_folder_then_the_network(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    official = [RemoteFile(name, f"{site.url}/{name}", MD5) for name in ("a.tar", "b.tar")]
    own = tmp_path / "own.tar"
    assert raw_files([own], official, folder) == [own]
    assert raw_files([], official, folder) == [folder / "a.tar", folder / "b.tar"]
    assert names(folder) == ["a.tar", "b.tar"]
    count = len(site.requests)
    assert fetch_all(official, folder) == [folder / "a.tar", folder / "b.tar"]
    (folder / "b.tar").unlink()
    assert raw_files([], official, folder) == [folder]
    assert len(site.requests) == count


def test_an_interrupted_download_of_several_files_is_completed(site: Site, tmp_path: Path) -> None:
    official = [RemoteFile(name, f"{site.url}/{name}", MD5) for name in ("a.tar", "b.tar")]

    def stop(done: int, total: int | None) -> None:
        if len(site.requests) == 2 and done > 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        raw_files([], official, tmp_path, stop)
    assert [path.name for path in download.entries(tmp_path)] == ["a.tar"]
    (tmp_path / "gdb9.sdf").touch()
    assert raw_files([], official, tmp_path) == [tmp_path]
    (tmp_path / "gdb9.sdf").unlink()
    assert raw_files([], official, tmp_path) == [tmp_path / "a.tar", tmp_path / "b.tar"]
    assert names(tmp_path) == ["a.tar", "b.tar"]


def test_after_a_download_that_brought_nothing_the_folder_is_read_as_it_is(closed: str, tmp_path: Path) -> None:
    official = [RemoteFile(name, closed, MD5) for name in ("a.tar", "b.tar")]
    with pytest.raises(DataError, match=r"Cannot download a.tar"):
        raw_files([], official, tmp_path)
    (tmp_path / "a.tar").write_bytes(CONTENT)
    assert raw_files([], official, tmp_path) == [tmp_path]


def test_without_a_terminal_progress_is_log_lines(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(download, "LOG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        fetch(RemoteFile("data.tar", f"{site.url}/data.tar", MD5), tmp_path)
    assert "data.tar: 300.0 kB of 300.0 kB" in caplog.messages


def test_on_a_terminal_there_is_a_bar(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("geomformer.datasets.raw.download").setLevel(logging.INFO)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fetch(RemoteFile("data.tar", f"{site.url}/data.tar", MD5), tmp_path)
    assert "data.tar: 100%" in capsys.readouterr().err
