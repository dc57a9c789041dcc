"""Names of a folder's files: which image a file, a table or an annotation means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

ID_SEPARATOR = "__"
"""Stands for the separators of a path in an id: ids become names of files."""


def listed_files(folder: Path, suffixes: tuple[str, ...], deep: bool = True) -> dict[str, list[Path]]:
    """Files of some suffixes, in any case, by their id; if `deep` those of sub-folders too; hidden ones left aside.

    The id is the name without suffix where no other folder has it too, else the path with `ID_SEPARATOR`.

    Returns:
        In the order of names; several paths of an id differ in their suffix alone.
    """
    by_path: dict[PurePosixPath, list[Path]] = {}
    for path in sorted(
        folder.rglob("*") if deep else folder.glob("*"), key=lambda path: (path.stem, path.suffix, path)
    ):
        relative = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in suffixes and not is_hidden and path.is_file():
            by_path.setdefault(PurePosixPath(relative.with_suffix("").as_posix()), []).append(path)
    names = Counter(relative.name for relative in by_path)
    return {
        relative.name if names[relative.name] == 1 else ID_SEPARATOR.join(relative.parts): paths
        for relative, paths in by_path.items()
    }


class ImageNames:
    """Finds the image that a name or a path means, whoever wrote it: with or without folders, suffix, backslashes.

    Args:
        ids: The path of each image below its folder, by id.
    """

    def __init__(self, ids: Mapping[str, PurePosixPath]) -> None:
        self._by_path = {relative.with_suffix(""): key for key, relative in ids.items()}
        self._by_name: dict[str, list[str]] = {}
        for key, relative in ids.items():
            self._by_name.setdefault(relative.stem, []).append(key)

    def id_of(self, name: str) -> str | None:
        """The id of the image that a name means; None where none or several are meant."""
        path = PurePosixPath(name.replace("\\", "/"))
        for whole in (path, path.with_suffix("")) if path.name else ():
            tails: Iterable[PurePosixPath] = (PurePosixPath(*whole.parts[n:]) for n in range(len(whole.parts)))
            found = next((self._by_path[tail] for tail in tails if tail in self._by_path), None)
            if found is not None:
                return found
            if len(self._by_name.get(whole.name, [])) == 1:
                return self._by_name[whole.name][0]
        return None
