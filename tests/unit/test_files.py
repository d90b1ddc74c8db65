from __future__ import annotations

import os
from pathlib import Path

import pytest

from geomformer import files
from geomformer.errors import DataError
from geomformer.files import check_space, file_hash, file_sha256, locked, size_text, write_atomic


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (36_130_000, "36.1 MB"),
        (8_100_000_000, "8.1 GB"),
        (97_000_000_000_000, "97.0 TB"),
    ],
)
def test_sizes_read_well(size: int, text: str) -> None:
    assert size_text(size) == text


def test_checksums_name_their_algorithm(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert file_hash(path, "md5") == "md5:900150983cd24fb0d6963f7d28e17f72"
    assert file_hash(path, "sha256") == f"sha256:{file_sha256(path)}"


def test_space_is_compared_at_the_nearest_folder_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = files.shutil.disk_usage(tmp_path)
    asked: list[Path] = []

    def disk_usage(path: Path) -> object:
        asked.append(path)
        return usage._replace(free=2_000_000)

    monkeypatch.setattr(files.shutil, "disk_usage", disk_usage)
    folder = tmp_path / "a" / "b"
    check_space(folder, 2_000_000, "shards")
    with pytest.raises(DataError, match=r"2.5 MB .*shards.*2.0 MB") as caught:
        check_space(folder, 2_500_000, "shards")
    assert asked == [tmp_path, tmp_path]
    assert str(folder) in str(caught.value) and caught.value.exit_code == 3
    assert "--out" in str(caught.value) and "--data-root" in str(caught.value)
    assert not folder.exists()


def test_a_relative_folder_that_is_not_there_has_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_space(Path("new/folder"), 1, "x")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.txt"
    write_atomic(path, "old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"


@pytest.mark.skipif(os.name != "posix", reason="locks are advisory files of POSIX")
def test_a_lock_keeps_others_out_until_it_is_given_back(tmp_path: Path) -> None:
    import fcntl

    path = tmp_path / "lock"
    with locked(path), path.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
