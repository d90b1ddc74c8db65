from __future__ import annotations

import io
import lzma
import stat
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomformer import files
from geomformer.datasets.raw.archives import extract_zip_member, save_member, tar_members, zip_members
from geomformer.errors import DataError

MEMBERS = {"set/a.xyz": b"first\n", "set/b.bin": np.random.default_rng(0).bytes(100_000), "set/c.xyz": b""}
MODES = {"x.tar": "w", "x.tar.gz": "w:gz", "x.tgz": "w:gz", "x.tar.bz2": "w:bz2", "x.tar.xz": "w:xz"}


def tar_of(path: Path, members: dict[str, bytes] | None = None, extra: tarfile.TarInfo | None = None) -> Path:
    with tarfile.open(path, MODES[path.name]) as archive:
        folder = tarfile.TarInfo("set/")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        if extra is not None:
            archive.addfile(extra)
        for name, data in (MEMBERS if members is None else members).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zip_of(path: Path, members: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("set")
        for name, data in (MEMBERS if members is None else members).items():
            archive.writestr(name, data)
    return path


def read_tar(path: Path) -> dict[str, bytes]:
    return {name: handle.read() for name, handle, _ in tar_members(path, lambda name: True)}


@pytest.mark.parametrize("name", MODES)
def test_members_of_every_kind_of_tar(tmp_path: Path, name: str) -> None:
    path = tar_of(tmp_path / name)
    assert read_tar(path) == MEMBERS
    sizes = [(member, size) for member, _, size in tar_members(path, lambda member: member.endswith(".xyz"))]
    assert sizes == [("set/a.xyz", 6), ("set/c.xyz", 0)]


def test_members_of_a_zip(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip")
    assert {name: handle.read() for name, handle, _ in zip_members(path, lambda name: True)} == MEMBERS
    assert [size for _, _, size in zip_members(path, lambda name: name.endswith(".bin"))] == [100_000]


def test_contents_are_read_as_text_and_not_always_to_the_end(tmp_path: Path) -> None:
    lines = {"a.csv": b"x\ny\n" * 100_000, "b.csv": b"z\n"}
    found = []
    for _, handle, _ in tar_members(tar_of(tmp_path / "x.tar.gz", lines), lambda name: True):
        found.append(next(iter(io.TextIOWrapper(handle, "utf-8"))))
    assert found == ["x\n", "z\n"]


def test_many_members_do_not_gather_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar_of(tmp_path / "x.tar", {f"set/{i}": b"" for i in range(300)})
    opened = []
    init = tarfile.TarFile.__init__

    def keep(self: tarfile.TarFile, *args: Any, **options: Any) -> None:
        opened.append(self)
        init(self, *args, **options)

    monkeypatch.setattr(tarfile.TarFile, "__init__", keep)
    assert len(read_tar(path)) == 300
    assert [len(vars(archive)["members"]) for archive in opened] == [0]


@pytest.mark.parametrize("name", ["../evil", "set/../../evil", "/etc/evil", "..", "set\\..\\evil", "C:evil"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    for path in (tar_of(tmp_path / "x.tar.gz", {name: b"x"}), zip_of(tmp_path / "x.zip", {name: b"x"})):
        members = tar_members if path.name != "x.zip" else zip_members
        with pytest.raises(DataError, match=r"is refused because of its member .*leads out") as caught:
            list(members(path, lambda member: False))
        assert repr(name)[1:-1] in repr(str(caught.value)) and caught.value.exit_code == 3


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("set/a.xyz")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match=r"refused because of its member 'set/a.xyz': it is a link or a device"):
        read_tar(tar_of(tmp_path / "x.tar", extra=info))


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="it is a link"):
        extract_zip_member(tmp_path / "x.zip", "link", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [*MODES, "x.zip"])
def test_an_archive_cut_anywhere_ends_early(tmp_path: Path, name: str) -> None:
    members = {f"set/{i}": MEMBERS["set/b.bin"][:700] for i in range(12)}
    path = (zip_of if name == "x.zip" else tar_of)(tmp_path / name, members)
    data = path.read_bytes()
    reader = zip_members if name == "x.zip" else tar_members
    # Of an uncompressed tar the padding at the end carries nothing; member boundaries are multiples of 512.
    end = 12 * 1536 + 512 if name == "x.tar" else len(data)
    for size in {*range(300, end, 997), *range(512, end, 512), end - 1}:
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match=rf"{name} ends early: {size} bytes .*Download it again"):
            for _, handle, _ in reader(path, lambda member: True):
                handle.read()


@pytest.mark.parametrize("name", [*MODES, "x.zip"])
def test_a_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    path = (zip_of if name == "x.zip" else tar_of)(tmp_path / name)
    data = bytearray(path.read_bytes())
    # In the header of the second member of a plain tar, whose contents have no checksum; else in the contents.
    at = 1536 + 3 if name == "x.tar" else len(data) // 2
    data[at] ^= 0xFF
    path.write_bytes(data)
    reader = zip_members if name == "x.zip" else tar_members
    with pytest.raises(DataError, match=r"(is damaged|ends early).*Download it again"):
        for _, handle, _ in reader(path, lambda member: True):
            handle.read()


def test_damage_after_the_last_member_is_noticed(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar.gz")
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="is damaged: CRC check failed"):
        read_tar(path)


@pytest.mark.parametrize("reader", [tar_members, zip_members])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "found an empty file"),
        (b"<!DOCTYPE html><html>" * 1000, "begins with a web page"),
        (b"gdb 1 0.5\n" * 9000, "begins with b'gdb 1 0.5"),
        (b"short", "begins with b'short'"),
        (None, "No such file"),
    ],
)
def test_what_is_no_archive_says_so(tmp_path: Path, reader: object, data: bytes | None, words: str) -> None:
    path = tmp_path / "x.tar.gz"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError, match=words):
        list(reader(path, lambda name: True))  # type: ignore[operator]


def test_a_header_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
        info = tarfile.TarInfo("header")
        info.type, info.size = kind, 2**32
        with pytest.raises(DataError, match="is damaged: it has a header of 4294967296 bytes"):
            read_tar(tar_of(tmp_path / "x.tar.gz", extra=info))


@pytest.mark.parametrize(
    "attributes",
    [
        {"GNU.sparse.map": "a,b", "GNU.sparse.size": "5"},
        {"GNU.sparse.size": "x"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "x"},
        None,
    ],
)
def test_files_with_holes_are_refused(tmp_path: Path, attributes: dict[str, str] | None) -> None:
    """The list of holes may be as long as the archive, and `tarfile` keeps all of it in memory."""
    info = tarfile.TarInfo("hole")
    info.pax_headers = attributes or {}
    if attributes is None:
        info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(DataError, match="is damaged: it has a file with holes"):
        read_tar(tar_of(tmp_path / "x.tar.gz", extra=info))


def test_headers_for_all_members_do_not_gather_in_memory(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for row in range(40):
            header = b"1000000 k%d=" % row + b"x" * 1_000_000
            header = b"%d%s\n" % (len(header) + 1, header[7:])
            info = tarfile.TarInfo("header")
            info.type, info.size = tarfile.XGLTYPE, len(header)
            archive.addfile(info, io.BytesIO(header))
            archive.addfile(tarfile.TarInfo(f"a{row}"))
    tracemalloc.start()
    assert len(read_tar(tmp_path / "x.tar.gz")) == 40
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_long_names_are_read(tmp_path: Path) -> None:
    members = {f"set/{'long' * 60}.xyz": b"x", "set/\u00e5.xyz": b"y"}
    assert read_tar(tar_of(tmp_path / "x.tar", members)) == members


def test_compressed_rubbish_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "x.tar.xz").write_bytes(lzma.compress(b"no tar at all" * 5000))
    with pytest.raises(DataError, match="is damaged"):
        read_tar(tmp_path / "x.tar.xz")


def test_a_member_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_of(tmp_path / "x.zip")
    out = tmp_path / "new" / "b.bin"
    assert extract_zip_member(path, "set/b.bin", out) == out and out.read_bytes() == MEMBERS["set/b.bin"]
    with pytest.raises(DataError, match=r"Expected set/z in .*found set/, set/a.xyz"):
        extract_zip_member(path, "set/z", out)
    data = bytearray(path.read_bytes())
    data[50_000] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        extract_zip_member(path, "set/b.bin", tmp_path / "other" / "b.bin")
    assert list((tmp_path / "other").iterdir()) == []


def test_a_bomb_is_weighed_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_of(tmp_path / "x.zip", {"big": bytes(5_000_000)})
    usage = files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage._replace(free=4_000_000))
    with pytest.raises(DataError, match=r"5.0 MB .*found 4.0 MB"):
        extract_zip_member(path, "big", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failing_disk_is_not_blamed_on_the_archive(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"Cannot write .*out"):
        extract_zip_member(zip_of(tmp_path / "x.zip"), "set/a.xyz", tmp_path / "file" / "out")
    with pytest.raises(DataError, match=r"Cannot write .*out"):
        save_member(io.BytesIO(b"x"), 1, tmp_path / "file" / "out")


def test_an_encrypted_zip_says_so(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip", {"a": b"secret"})
    data = path.read_bytes()
    central = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    local = data.index(b"PK\x03\x04", 4)
    changed = bytearray(data)
    changed[local + 6] |= 1
    changed[central + 8] |= 1
    path.write_bytes(changed)
    with pytest.raises(DataError, match=r"is damaged: .*encrypted"):
        list(zip_members(path, lambda name: True))
