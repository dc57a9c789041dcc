"""A competition's files from Kaggle, unpacked as its raw folder; a download that was cut short goes on."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from histofold.competitions.registry import ADAPTERS, detect_competition, get_competition
from histofold.core.faults import Fault, InputError
from histofold.kaggle.submit.client import ClientError, KaggleClient, run_process, without_secrets
from histofold.schema.files import remove_leftovers, written_whole

ARCHIVE_FOLDER = ".download"
"""Beside the files: what has come so far. The client goes on with it, and it goes away with the last file."""
_LOCAL_HEADER_BYTES = 30  # of a file in a zip, its name aside
_BLOCK_BYTES = 1 << 20


def download_competition(name: str, out: Path) -> Path:
    """Fetch a competition's files with Kaggle's own client and unpack them.

    Args:
        name: Name of the adapter.
        out: The raw folder to make; one that is whole already is left as it is.

    Returns:
        The folder, of which the adapter recognises the layout.

    Raises:
        InputError: If the competition is not of Kaggle, the client is not installed, has no credentials, or its rules
            are not accepted; if the archive is broken, would leave the folder or overwrite other files.
    """
    slug = get_competition(name).slug
    if not slug:
        known = ", ".join(key for key in ADAPTERS if get_competition(key).slug)
        rule, remedy = "no competition of Kaggle's, so there is nothing to download", f"name one of {known}"
        raise InputError([Fault(name, "competition", rule, remedy)])
    archives = out / ARCHIVE_FOLDER
    if out.is_dir() and any(out.iterdir()) and not archives.is_dir():
        _require_layout(name, out, "holds other files", "give another --out")
        return out
    KaggleClient({})  # refuses where the client is not installed
    archives.mkdir(parents=True, exist_ok=True)
    archive = _fetch(slug, archives)
    unpack(archive, out)
    _require_layout(name, out, f"the files of {slug} are not laid out as {name} reads them", "look at what has come")
    shutil.rmtree(archives)
    return out


def _fetch(slug: str, folder: Path) -> Path:
    """Have the client fetch the archive of a competition, or what is missing of it."""
    arguments = ("competitions", "download", slug, "-p", str(folder), "-q")
    code, output = run_process(("-m", "kaggle", *arguments), None)
    archive = folder / f"{slug}.zip"
    if code or not archive.is_file():
        error = ClientError(arguments, without_secrets(output))
        if error.code != 403:
            raise error
        rule = "Kaggle refuses the download: you have not joined this competition"
        remedy = f"accept the rules at https://www.kaggle.com/c/{slug}/rules, and run the same command again"
        raise InputError([Fault(slug, "Kaggle", rule, remedy)]) from error
    return archive


def _require_layout(name: str, out: Path, rule: str, remedy: str) -> None:
    """Refuse a folder that is not of a competition's layout."""
    try:
        found = detect_competition(out).name
    except InputError:
        found = "nothing that is known"
    if found != name:
        raise InputError([Fault(out.name, str(out), f"{rule} ({found})", remedy)])


def unpack(archive: Path, out: Path) -> None:
    """Unpack an archive, every file whole or not at all; files that are there already are not written again.

    Raises:
        InputError: With all faults: a broken archive, names that leave the folder, links, other files in the way, too
            little room on the disk.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
            faults = _name_faults(archive, entries)
            if _overlap(entries, opened.start_dir):
                rule = "its files overlap: a bomb, or a broken archive"
                faults.append(
                    Fault(archive.name, str(archive), rule, f"remove {archive} and run the same command again")
                )
            waiting = [] if faults else [entry for entry in entries if not _is_there(entry, out)]
            faults += _place_faults(archive, waiting, out)
            if faults:
                raise InputError(faults)
            remove_leftovers(*{(out / entry.filename).parent for entry in waiting})
            for entry in tqdm(waiting, desc="unpack", unit="file", dynamic_ncols=True):
                with (
                    written_whole(out / entry.filename) as temporary,
                    opened.open(entry) as source,
                    temporary.open("wb") as target,
                ):
                    shutil.copyfileobj(source, target, _BLOCK_BYTES)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        remedy = f"remove {archive} and run the same command again"
        raise InputError([Fault(archive.name, str(archive), f"a broken archive ({error})", remedy)]) from error


def _overlap(entries: Sequence[zipfile.ZipInfo], end: int) -> bool:
    """Whether entries share bytes of the archive, or lie beyond the end of its contents."""
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    stops = [entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size for entry in ordered]
    nexts = [*(entry.header_offset for entry in ordered[1:]), end]
    return any(stop > following for stop, following in zip(stops, nexts, strict=True))


def _name_faults(archive: Path, entries: Sequence[zipfile.ZipInfo]) -> list[Fault]:
    """Entries that would be written outside of the folder, links, and names that stand twice."""
    faults, seen = [], set()
    for entry in entries:
        path = PurePosixPath(entry.filename)
        is_link = stat.S_ISLNK(entry.external_attr >> 16)
        leaves = path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename
        rule = "a link" if is_link else "it would leave the folder" if leaves else ""
        rule = rule or ("stands there twice" if path in seen else "")
        seen.add(path)
        if rule:
            faults.append(Fault(entry.filename, str(archive), rule, "this is no archive of Kaggle's: remove it"))
    return faults


def _is_there(entry: zipfile.ZipInfo, out: Path) -> bool:
    """Whether an entry was unpacked already, by its size and checksum."""
    path, checksum = out / entry.filename, 0
    if not path.is_file() or path.stat().st_size != entry.file_size:
        return False
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum == entry.CRC


def _place_faults(archive: Path, waiting: Sequence[zipfile.ZipInfo], out: Path) -> list[Fault]:
    """Other files in the way of what is to be unpacked, and a disk that does not hold it."""
    faults = [
        Fault(entry.filename, str(out / entry.filename), "another file lies here", "move it, or give another --out")
        for entry in waiting
        if (out / entry.filename).exists()
    ]
    needed, free = sum(entry.file_size for entry in waiting), shutil.disk_usage(archive.parent).free
    if needed > free:
        rule = f"the files take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
        faults.append(Fault(archive.name, str(out), rule, "free some space, or give another --out"))
    return faults
