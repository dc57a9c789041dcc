"""Names of a folder's files: which image a file, a table or an annotation means."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from histofold.competitions.base import IMAGE_SUFFIXES
from histofold.core.faults import Fault
from histofold.imaging.formats.door import FORMAT_SUFFIXES
from histofold.schema.sample import is_utf8

FOLDER_SUFFIXES = (*IMAGE_SUFFIXES, *FORMAT_SUFFIXES)
"""Suffixes of the images of a plain folder."""
_SYSTEM_FOLDERS = ("@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or what systems and open spreadsheets leave behind."""
    return name.startswith((".", "~$")) or name.casefold() in _SYSTEM_FOLDERS


def class_name_faults(path: Path, names: Iterable[str]) -> list[Fault]:
    """Faults of classes that no file can hold, or that differ in case, blanks and underscores alone: as two."""
    forms: dict[str, list[str]] = {}
    strange = [ascii(name) for name in dict.fromkeys(names) if not is_utf8(name)]
    if strange:
        return [Fault("classes", str(path), f"no names in UTF-8: {', '.join(strange)}", "rename these classes")]
    for name in dict.fromkeys(names):
        plain = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name).casefold()).strip()
        forms.setdefault(plain, []).append(name)
    return [
        Fault("classes", str(path), f"one class in several spellings: {', '.join(found)}", "write it in one way")
        for found in forms.values()
        if len(found) > 1
    ]


def listed_files(folder: Path, suffixes: tuple[str, ...], deep: bool = True) -> dict[str, list[Path]]:
    """Files of some suffixes, in any case, by their id; if `deep` those of sub-folders too; hidden ones left aside."""
    paths = sorted(folder.rglob("*") if deep else folder.glob("*"), key=lambda path: (path.stem, path.suffix, path))
    visible = [
        path
        for path in paths
        if path.suffix.lower() in suffixes and not any(map(is_hidden, path.relative_to(folder).parts))
    ]
    return image_ids(folder, [path for path in visible if path.is_file()])


def image_ids(folder: Path, paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Files by their id: the name without suffix where no other folder has it too, else the path below `folder`.

    Returns:
        In the order given; several paths of an id differ in their suffix alone.
    """
    by_path: dict[PurePosixPath, list[Path]] = {}
    for path in paths:
        by_path.setdefault(without_suffix(PurePosixPath(path.relative_to(folder).as_posix())), []).append(path)
    names = Counter(relative.name for relative in by_path)
    return {
        relative.name if names[relative.name] == 1 else relative.as_posix(): group
        for relative, group in by_path.items()
    }


def without_suffix(path: PurePosixPath) -> PurePosixPath:
    """A path without its suffix, without both of `.ome.tif`."""
    bare = path.with_suffix("")
    return bare.with_suffix("") if bare.suffix.lower() == ".ome" else bare


_MASK_WORDS = r"masks?|annos?|annotations?|annotated|labels?|seg|segmentations?|segmented|gt|ground[ _-]?truth|truth"
_IMAGE_WORDS = r"images?|imgs?|pictures?"
_AFFIXES = {
    kind: re.compile(rf"^(?:(?:{words})(?:[ _.-]+|(?=\d)))?(?P<name>.+?)(?:[ _.-]+(?:{words}))?$", re.IGNORECASE)
    for kind, words in (("mask", _MASK_WORDS), ("image", _IMAGE_WORDS))
}


def bare_name(name: str, kind: Literal["mask", "image"] = "mask") -> str:
    """A name without what says that it is a mask (or an image): `ID` of `ID_mask`, `ID-labels`, `anno_ID`."""
    match = _AFFIXES[kind].match(name)
    return match["name"] if match else name


class ImageNames:
    """Finds the image that a name or a path means, whoever wrote it: with or without folders, suffix, backslashes.

    Args:
        ids: The path of each image below its folder, by id.
    """

    folders: set[str]
    """Names of the sub-folders that hold images."""

    def __init__(self, ids: Mapping[str, PurePosixPath]) -> None:
        bare = {key: without_suffix(relative) for key, relative in ids.items()}
        self._by_path = {path: key for key, path in bare.items()}
        self._by_name: dict[str, list[str]] = {}
        self._by_bare_name: dict[str, list[str]] = {}
        for key, path in bare.items():
            self._by_name.setdefault(path.name, []).append(key)
            self._by_bare_name.setdefault(bare_name(path.name, "image"), []).append(key)
        self.folders = {relative.parts[0] for relative in ids.values() if len(relative.parts) > 1}

    def id_of(self, name: str) -> str | None:
        """The id of the image that a name means; None where none or several are meant."""
        path = PurePosixPath(name.replace("\\", "/"))
        for whole in (path, path.with_suffix(""), without_suffix(path)) if path.name else ():
            tails: Iterable[PurePosixPath] = (PurePosixPath(*whole.parts[n:]) for n in range(len(whole.parts)))
            found = next((self._by_path[tail] for tail in tails if tail in self._by_path), None)
            if found is not None:
                return found
            if len(self._by_name.get(whole.name, [])) == 1:
                return self._by_name[whole.name][0]
        return None

    def id_of_bare(self, name: str) -> str | None:
        """The id of the image whose name, without `image_` or the like, is this; None where none or several are."""
        found = self._by_bare_name.get(name, [])
        return found[0] if len(found) == 1 else None


def files_of_images(folder: Path, paths: Iterable[Path], names: ImageNames) -> tuple[dict[str, list[Path]], list[Path]]:
    """Which files are of which image, by their names below a folder.

    A name may say beside that of the image what the file is: `ID_mask`, `anno_ID`.

    Returns:
        The files of each id, and those of no image.
    """
    exact: dict[str, list[Path]] = {}
    marked: dict[str, list[Path]] = {}
    strays = []
    for path in paths:
        relative = without_suffix(PurePosixPath(path.relative_to(folder).as_posix()))
        bare = bare_name(relative.name)
        if key := names.id_of(f"{relative}{path.suffix}"):
            exact.setdefault(key, []).append(path)
        elif key := names.id_of(f"{relative.with_name(bare)}{path.suffix}") or names.id_of_bare(bare):
            marked.setdefault(key, []).append(path)
        else:
            strays.append(path)
    for key, own in marked.items():
        exact.setdefault(key, []).extend(own)
    return exact, strays
