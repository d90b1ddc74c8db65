"""Fetching raw files: https, resumed, checked, and what to do without a network."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from geomformer.errors import DataError
from geomformer.files import check_space, check_writable, file_hash, locked, size_text, write_atomic

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the size of the file, where it is known."""

LOG_SECONDS = 30.0
_MARKER = ".downloading"
_LEFTOVERS = (".part", ".part.json", ".part.lock", ".sha256", ".tmp")


@dataclass(frozen=True)
class RemoteFile:
    """A raw file on the network.

    Attributes:
        name: its name on disk.
        url: where it is.
        known_hash: checksum as "md5:..." or "sha256:..."; None where the publisher gives none.
        size: bytes, about; None where not known.
        mirrors: other places of the same file.
    """

    name: str
    url: str
    known_hash: str | None = None
    size: int | None = None
    mirrors: tuple[str, ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        """All places in the order in which they are tried, https first."""
        return tuple(sorted((self.url, *self.mirrors), key=lambda url: not url.startswith("https:")))


def fetch(file: RemoteFile, folder: Path, *, progress: Progress | None = None) -> Path:
    """Downloads a file unless it is there with the right checksum.

    The bytes gather in `NAME.part`; a rerun continues there. Of a file without a published checksum the sha256 is kept
    in `NAME.sha256`, so that a later change is noticed. Processes that want the same file wait for the first.

    Args:
        file: what to download.
        folder: where to put it; made as needed.
        progress: called with bytes; without it there is a bar on a terminal and log lines elsewhere.

    Returns:
        The path of the file.

    Raises:
        DataError: it cannot be downloaded (the message says which file to put where), the disk has no room, or what
            is there or comes has another checksum.
    """
    target = folder / file.name
    if not target.exists():
        check_writable(folder)
        lock = _part(target).with_name(_part(target).name + ".lock")
        with locked(lock):
            missing = not target.exists()
            if missing:
                _download(file, target, progress)
        lock.unlink(missing_ok=True)
        if missing:
            return target
    _check_present(file, target)
    return target


def fetch_all(files: Sequence[RemoteFile], folder: Path, progress: Progress | None = None) -> list[Path]:
    """Downloads several files into a folder, if the disk has room for all of them.

    Raises:
        DataError: as for `fetch`.
    """
    targets = [folder / file.name for file in files]
    marker = folder / _MARKER
    if not all(target.exists() for target in targets):
        check_space(folder, sum(map(_missing_bytes, files, targets)), "the download")
        check_writable(folder)
        marker.touch()
    try:
        for file in files:
            fetch(file, folder, progress=progress)
    except DataError as error:
        # Without a part there is nothing to continue, and what the user puts there next is to be read as it is.
        if not any(_part(target).exists() and not target.exists() for target in targets):
            marker.unlink(missing_ok=True)
        others = [other for other, target in zip(files, targets, strict=True) if other != file and not target.exists()]
        if others:
            wanted = "; ".join(f"{other.name} ({' or '.join(other.urls)})" for other in others)
            raise DataError(error.message, f"{error.hint} Also needed: {wanted}.") from error
        raise
    marker.unlink(missing_ok=True)
    return targets


def raw_files(
    raw: Sequence[Path], files: Sequence[RemoteFile], folder: Path, progress: Progress | None = None
) -> list[Path]:
    """Returns what a dataset is read from: what the user names, else what is in the default folder, else a download.

    A download into the folder that was interrupted is completed, unless the user put other files there since.

    Args:
        raw: what the user names.
        files: the official files.
        folder: the default folder.
        progress: as in `fetch`.

    Raises:
        DataError: as for `fetch`.
    """
    if raw:
        return list(raw)
    names = {path.name for path in entries(folder)}
    interrupted = (folder / _MARKER).exists() and names <= {file.name for file in files}
    return [folder] if names and not interrupted else fetch_all(files, folder, progress)


def entries(folder: Path) -> list[Path]:
    """Returns what lies in a folder, sorted, without hidden files and what downloads leave beside their files."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if not path.name.startswith(".") and not path.name.endswith(_LEFTOVERS)]


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _missing_bytes(file: RemoteFile, target: Path) -> int:
    """Returns about how many bytes of a file have still to come."""
    if file.size is None or target.exists():
        return 0
    part = _part(target)
    return max(file.size - (part.stat().st_size if part.exists() else 0), 0)


def _download(file: RemoteFile, target: Path, progress: Progress | None) -> None:
    # Here, because `requests` takes a while to import and most runs download nothing.
    from geomformer.datasets.raw import transfer

    check_space(target.parent, _missing_bytes(file, target), file.name)
    part = _part(target)
    begun = transfer.origin(part)
    failures = []
    for url in sorted(file.urls, key=lambda url: url != begun):
        logger.info("fetching %s%s from %s", file.name, f" (about {size_text(file.size)})" if file.size else "", url)
        try:
            with _reporter(file.name, progress) as report:
                transfer.transfer(url, part, checksum_known=file.known_hash is not None, report=report)
        except transfer.Unavailable as error:
            failures.append(f"{url}: {error}")
            continue
        found = _hash_of(part, file.known_hash)
        if file.known_hash in (None, found):
            part.replace(target)
            transfer.remove(part)
            if file.known_hash is None:
                _note_hash(target, found)
            return
        failures.append(f"{url}: expected the checksum {file.known_hash}, found {found}; what came is deleted")
        transfer.remove(part)
    raise _unavailable(file, target, failures)


def _unavailable(file: RemoteFile, target: Path, failures: Sequence[str]) -> DataError:
    part = _part(target)
    kept = f" {size_text(part.stat().st_size)} are kept in {part.name}: run again to continue." if part.exists() else ""
    return DataError(
        f"Cannot download {file.name}: {'; '.join(failures)}.{kept}",
        f"Get it from {' or '.join(file.urls)}, and put it into {target.parent} or name it with --raw.",
    )


def _hash_of(path: Path, known_hash: str | None) -> str:
    return file_hash(path, known_hash.partition(":")[0] if known_hash is not None else "sha256")


def _note_hash(target: Path, found: str) -> None:
    logger.info("%s has no published checksum; found %s", target.name, found)
    try:
        write_atomic(_noted(target), f"{found.partition(':')[2]}  {target.name}\n")
    except OSError as error:
        logger.info("its checksum is not kept: %s", error)


def _noted(target: Path) -> Path:
    return target.with_name(target.name + ".sha256")


def _check_present(file: RemoteFile, target: Path) -> None:
    """Compares a file that was there with the published checksum, else with the one found when it was new.

    Raises:
        DataError: they differ.
    """
    expected = file.known_hash
    if expected is None and not _noted(target).exists():
        _note_hash(target, _hash_of(target, None))
        return
    if expected is None:
        expected = f"sha256:{_noted(target).read_text(encoding='utf-8').split(' ')[0].strip()}"
    found = _hash_of(target, expected)
    if found == expected:
        return
    size = target.stat().st_size
    about = f" (about {size_text(file.size)})" if file.size else ""
    early = ": it ends early" if file.size and 0 < size < 0.99 * file.size else ": it is empty" if not size else ""
    raise DataError(
        f"Expected the checksum {expected}{about} of {target}, found {found} ({size_text(size)}){early}.",
        f"Delete it{'' if file.known_hash else f' and {_noted(target).name}'} and run again to download it, or name "
        "another file with --raw.",
    )


@contextlib.contextmanager
def _reporter(name: str, progress: Progress | None) -> Iterator[Progress]:
    """Gives what shows the progress of a transfer: the caller's function, a bar on a terminal, else log lines."""
    if progress is not None:
        yield progress
    elif sys.stderr.isatty() and logger.isEnabledFor(logging.INFO):
        from tqdm import tqdm

        with tqdm(desc=name, unit="B", unit_scale=True) as bar:
            begun = False

            def show(done: int, total: int | None) -> None:
                nonlocal begun
                if not begun:
                    # What was here before does not count for the speed.
                    bar.total, bar.initial, begun = total, done, True
                bar.update(done - bar.n)

            yield show
    else:
        yield _log_lines(name)


def _log_lines(name: str) -> Progress:
    last = time.monotonic()

    def log(done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_SECONDS:
            last = time.monotonic()
            logger.info("%s: %s%s", name, size_text(done), f" of {size_text(total)}" if total else "")

    return log
