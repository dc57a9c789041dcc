"""The adapters by name, and the detection of a folder's competition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from histofold.competitions.base import Competition
from histofold.competitions.columns import simple_column
from histofold.competitions.folder import Folder
from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.competitions.kidney_2020 import KIDNEY_2020_COLUMNS, KIDNEY_2020_INFORMATION, Kidney2020
from histofold.competitions.sennet_2024 import Sennet2024
from histofold.competitions.tables import table_header
from histofold.competitions.truth.layout import find_images, is_plain_folder
from histofold.competitions.truth.names import is_hidden
from histofold.competitions.vasculature_2023 import VASCULATURE_META, VASCULATURE_POLYGONS, Vasculature2023
from histofold.competitions.vrdl_nuclei import VRDL_TEST_IDS, VrdlNuclei
from histofold.core.faults import Fault, InputError

ADAPTERS: dict[str, Callable[[], Competition]] = {
    "hubmap_2022": Hubmap2022,
    "folder": Folder,
    "kidney_2020": Kidney2020,
    "vasculature_2023": Vasculature2023,
    "sennet_2024": Sennet2024,
    "vrdl_nuclei": VrdlNuclei,
}


def get_competition(name: str) -> Competition:
    """A new adapter.

    Raises:
        InputError: If the name is unknown, listing the known ones.
    """
    if name not in ADAPTERS:
        known = ", ".join(ADAPTERS)
        raise InputError([Fault(name, "competition", "unknown competition", f"known ones: {known}")])
    return ADAPTERS[name]()


def detect_competition(root: Path) -> Competition:
    """Find out a folder's competition by its files and the headers of its tables.

    Raises:
        InputError: If the folder is missing or fits none.
    """
    if not root.is_dir():
        raise InputError([Fault(root.name, str(root), "no such folder", "check the path")])
    if (root / "train_rles.csv").is_file() or next(root.glob("t*/kidney_*/images"), None) is not None:
        return Sennet2024()
    submission = _columns(root / "sample_submission.csv")
    if any((root / name).is_file() for name in (VASCULATURE_META, VASCULATURE_POLYGONS)) or (
        set(Vasculature2023.columns) <= submission
    ):
        return Vasculature2023()
    if (root / VRDL_TEST_IDS).is_file():
        return VrdlNuclei()
    header = _columns(root / "train.csv")
    looks_like_2022 = {"organ", "rle"} <= header or ({"id", "organ"} <= _columns(root / "test.csv") and not header)
    looks_like_kidney = set(KIDNEY_2020_COLUMNS) <= header or (root / KIDNEY_2020_INFORMATION).is_file()
    if looks_like_2022 or ((root / "train_images").is_dir() and "id" in header and not looks_like_kidney):
        return Hubmap2022()
    if looks_like_kidney or set(Kidney2020.columns) <= submission:
        return Kidney2020()
    if is_plain_folder(root):
        return Folder()
    if set(Hubmap2022.columns) <= submission:
        return Hubmap2022()
    if find_images(root, "train").by_id:
        return Folder()  # images alone: they can be predicted, and a check says that they have no truth
    remedy = (
        "hubmap_2022 wants train.csv (id, organ, ..., rle) and train_images/; kidney_2020 wants train.csv "
        "(id, encoding) and train/; vasculature_2023 wants tile_meta.csv, polygons.jsonl and train/; vrdl_nuclei wants "
        "test_img_ids.json and train/; sennet_2024 wants train/VOLUME/images; folder wants images/, or images beside "
        "their masks"
    )
    below = sorted(path for depth in ("*", "*/*") for path in root.glob(depth) if path.is_dir())
    inside = [str(path.relative_to(root)) for path in below if not is_hidden(path.name) and is_plain_folder(path)]
    archives = [path.name for path in sorted(root.glob("*.zip"))]
    if inside:
        remedy = f"give one of the folders in it that hold images: {', '.join(inside)}"
    elif archives:
        remedy = f"unpack {', '.join(archives)}"
    elif holding := [path.name for path in below if path.parent == root and find_images(path, "train").by_id]:
        remedy = f"images lie in {', '.join(holding)}: name their folder images, and that of their masks masks"
    raise InputError([Fault(root.name, str(root), "no known competition's layout", remedy)])


def _columns(path: Path) -> set[str]:
    """The columns of a table, however people spell them; none where there is no such file."""
    return set(map(simple_column, table_header(path)))


def find_competition(name: str, root: Path) -> Competition:
    """The adapter of this name; where none is given, the one whose layout a folder has."""
    return get_competition(name) if name else detect_competition(root)


def submission_competition(path: Path) -> Competition:
    """The adapter whose columns a submission has; that of hubmap_2022 where it has those of none, nuclei's for JSON.

    One of several classes goes before those that take a single one.
    """
    if path.suffix.lower() == ".json":
        return VrdlNuclei()
    header = set(table_header(path))
    adapters = [get_competition(name) for name in ADAPTERS]
    fitting = [adapter for adapter in adapters if set(adapter.columns) <= header]
    several = [adapter for adapter in fitting if adapter.class_column in header]
    return (several or fitting or adapters)[0]
