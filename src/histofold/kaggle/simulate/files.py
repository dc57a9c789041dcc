"""The files of a fake hidden set, in a tree as Kaggle mounts it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile

from histofold.competitions.base import Competition
from histofold.competitions.hubmap_2022 import HUBMAP_2022_COLUMNS
from histofold.competitions.kidney_2020 import KIDNEY_2020_INFORMATION
from histofold.competitions.vrdl_nuclei import VRDL_TEST_IDS
from histofold.core.faults import Fault, InputError
from histofold.kaggle.simulate.plan import HiddenImage, HiddenSet, Look
from histofold.kernels.vrdl_nuclei import VRDL_ANSWER
from histofold.schema.files import csv_text

Draw = Callable[[int, Look, tuple[int, int]], np.ndarray]
"""Draws the image of a number and a look as uint8 RGB (H, W, 3) of a height and width."""
_TILED = {"tile": (256, 256)}
_LAYOUT_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "strips": {"rowsperstrip": 64},
    "lzw": {"rowsperstrip": 96, "compression": "lzw", "predictor": True},
    "deflate tiles": {**_TILED, "compression": "zlib", "predictor": True},
    "jpeg tiles": {**_TILED, "compression": "jpeg"},
}


@dataclass(frozen=True)
class FakeKaggle:
    """A tree that stands for /kaggle."""

    root: Path
    """What HISTOFOLD_KAGGLE_ROOT names."""
    competition: Path
    """The folder of the hidden set."""
    working: Path
    """Where the kernel writes."""
    answer_name: str = "submission.csv"
    """Name of the file that it writes there."""

    @property
    def answer(self) -> Path:
        """The kernel's submission."""
        return self.working / self.answer_name

    @property
    def journal(self) -> Path:
        """Its journal while it is not finished."""
        return self.working / f"{self.answer_name}.journal"

    @classmethod
    def create(cls, root: Path, competition: Competition, weights: Path) -> FakeKaggle:
        """Make the tree anew, with the weights as a dataset; the hidden set is written afterwards."""
        folder = root / "input" / "competitions" / (competition.slug or competition.name)
        answer = VRDL_ANSWER if competition.name == "vrdl_nuclei" else cls.answer_name
        tree = cls(root, folder, root / "working", answer)
        shutil.rmtree(root, ignore_errors=True)
        tree.competition.mkdir(parents=True)
        tree.working.mkdir()
        dataset = root / "input" / "datasets" / "owner" / "weights"
        dataset.parent.mkdir(parents=True)
        try:
            dataset.symlink_to(weights.resolve(), target_is_directory=True)
        except OSError:  # a file system without links
            shutil.copytree(weights, dataset)
        return tree


def image_folder(competition: str) -> str:
    """Name of the folder of test images.

    Raises:
        InputError: If the competition has no hidden set.
    """
    folders = {"hubmap_2022": "test_images", "kidney_2020": "test", "vasculature_2023": "test", "vrdl_nuclei": "test"}
    if competition not in folders:
        known = ", ".join(folders)
        raise InputError([Fault(competition, "simulate", "it has no hidden set", f"competitions that do: {known}")])
    return folders[competition]


def write_hidden(tree: FakeKaggle, competition: Competition, hidden: HiddenSet, draw: Draw) -> Iterator[str]:
    """Write images and tables, the tables last; gives each id when its image is done."""
    folder = tree.competition / image_folder(competition.name)
    folder.mkdir(exist_ok=True)
    suffix = ".png" if competition.name == "vrdl_nuclei" else ".tiff"  # what a file is its content says
    originals = {image.original for image in hidden.images}
    kept: dict[str, bytes | None] = {}
    # A duplicate's original comes first, whatever the order of the rows.
    for image in sorted(hidden.images, key=lambda image: image.number):
        content = kept[image.original] if image.original else file_bytes(image, draw)
        if image.id in originals:
            kept[image.id] = content
        if content is not None:
            (folder / f"{image.id}{suffix}").write_bytes(content)
        yield image.id
    if "images that are not listed" in hidden.faults:
        (folder / "not_listed.tiff").write_bytes(tiff_content(np.full((40, 30, 3), 200, np.uint8), "strips"))
        (folder / "not_listed.txt").write_text("no image")
    if "another competition beside it" in hidden.faults:
        other = tree.root / "input" / "a-decoy"
        other.mkdir(exist_ok=True)
        (other / "sample_submission.csv").write_text("id,answer\n1,\n")
        (other / "manifest.json").write_text('{"format": "web-app/2"}')
    _write_tables(tree.competition, competition, hidden)


def file_bytes(image: HiddenImage, draw: Draw) -> bytes | None:
    """The content of an image's file as its plan says; None for a file that is missing."""
    if image.fault in ("missing", "name too long"):
        return None
    if image.fault == "text":
        return b"this is no image\n"
    if image.fault == "empty file":
        return b""
    blank = image.fault == "blank"
    shape_hw = image.shape_hw
    image_HWC = np.full((*shape_hw, 3), 255, np.uint8) if blank else draw(image.number, image.look, shape_hw)
    content = tiff_content(image_HWC, image.layout)
    if image.fault in ("truncated", "header only"):
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            first = min(tiff.pages[0].dataoffsets)
        return content[: first if image.fault == "header only" else (first + len(content)) // 2]
    return _swollen(content) if image.fault == "claims too much" else content


def _swollen(content: bytes) -> bytes:
    """A TIFF whose header claims 50000 x 50000 pixels that the file does not hold."""
    stream = io.BytesIO(content)
    with tifffile.TiffFile(stream, mode="r+") as tiff:
        for name in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[name].overwrite(50_000)
        return stream.getvalue()


def tiff_content(image_HWC: np.ndarray, layout: str) -> bytes:
    """A uint8 RGB image (H, W, 3) as a TIFF of one of `PLAIN_LAYOUTS` or `LAYOUT_ODDITIES`."""
    stream = io.BytesIO()
    if layout in _LAYOUT_OPTIONS:
        tifffile.imwrite(stream, image_HWC, photometric="rgb", metadata=None, **_LAYOUT_OPTIONS[layout])
    elif layout == "planar":
        planes_CHW = np.moveaxis(image_HWC, -1, 0)
        tifffile.imwrite(stream, planes_CHW, photometric="rgb", planarconfig="separate", metadata=None)
    elif layout == "5-D":
        tifffile.imwrite(stream, np.moveaxis(image_HWC, -1, 0)[None, None], photometric="minisblack")
    elif layout == "pages":
        with tifffile.TiffWriter(stream) as writer:
            for band in range(3):
                writer.write(image_HWC[:, :, band], photometric="minisblack", metadata=None)
    elif layout == "grey":
        tifffile.imwrite(stream, image_HWC[:, :, 1], photometric="minisblack", metadata=None)
    elif layout == "PNG":
        stream.write(cv2.imencode(".png", image_HWC[..., ::-1])[1].tobytes())
    elif layout == "RGBA":
        rgba_HWC = np.concatenate([image_HWC, np.full_like(image_HWC[:, :, :1], 255)], axis=2)
        tifffile.imwrite(stream, rgba_HWC, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
    else:
        tifffile.imwrite(stream, image_HWC.astype(np.uint16) * 257, photometric="rgb", metadata=None)
    return stream.getvalue()


def _write_tables(root: Path, competition: Competition, hidden: HiddenSet) -> None:
    if competition.name == "vrdl_nuclei":
        _write_image_list(root / VRDL_TEST_IDS, hidden)
        return
    sizes = [_stated_size(image)[:2] if competition.task == "instances" else () for image in hidden.images]
    rows = [[image.id, *size, competition.fallback_row] for image, size in zip(hidden.images, sizes, strict=True)]
    _write_table(root / "sample_submission.csv", competition.columns, rows, hidden)
    if "no table" in hidden.faults:
        return
    listed = [image for image in hidden.images if image.fault != "no row"]
    table = {"kidney_2020": _kidney_table, "vasculature_2023": _tile_table}.get(competition.name, _hubmap_table)
    name, columns, cells = table(listed)
    if "a column is missing" in hidden.faults:
        columns, cells = columns[:-1], [row[:-1] for row in cells]
    _write_table(root / name, columns, cells, hidden)


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], hidden: HiddenSet) -> None:
    text = csv_text(columns, rows)
    if "line ends of Windows" in hidden.faults:
        text = "\ufeff" + text.replace("\n", "\r\n")
    path.write_bytes(text.encode())


def _hubmap_table(images: Sequence[HiddenImage]) -> tuple[str, Sequence[str], list[list[str]]]:
    rows = [[image.id, *_stated_organ(image), *_stated_size(image)] for image in images]
    return "test.csv", HUBMAP_2022_COLUMNS[:-1], rows


def _kidney_table(images: Sequence[HiddenImage]) -> tuple[str, Sequence[str], list[list[str]]]:
    columns = ("image_file", "height_pixels", "width_pixels", "patient_number", "pixel_size")
    rows = []
    for image in images:
        height, width, pixel_size = _stated_size(image)
        rows.append([f"{image.id}.tiff", height, width, str(1 + image.number // 2), pixel_size])
    return KIDNEY_2020_INFORMATION, columns, rows


def _write_image_list(path: Path, hidden: HiddenSet) -> None:
    """The test images as VRDL lists them; the sizes are the host's own, by which it scores."""
    entries = [
        {"id": number, "file_name": f"{image.id}.png", "height": image.shape_hw[0], "width": image.shape_hw[1]}
        for number, image in enumerate(hidden.images, 1)
    ]
    path.write_text(json.dumps(entries), encoding="utf-8")


def _tile_table(images: Sequence[HiddenImage]) -> tuple[str, Sequence[str], list[list[str]]]:
    """Tiles of one slide, eight a row."""
    places = [divmod(image.number, 8) for image in images]
    rows = [
        [image.id, "5", "1", str(512 * column), str(512 * row)]
        for image, (row, column) in zip(images, places, strict=True)
    ]
    return "tile_meta.csv", ("id", "source_wsi", "dataset", "i", "j"), rows


def _stated_organ(image: HiddenImage) -> tuple[str, str]:
    """Organ and source as the table has them."""
    return ("pancreas", "Elsewhere") if image.fault == "unknown organ" else (image.look.organ, image.look.source)


def _stated_size(image: HiddenImage) -> tuple[str, str, str]:
    """Height, width and pixel size as the table has them."""
    height, width = image.shape_hw
    if image.fault == "wrong size":
        height, width = width + 1, height
    return str(height), str(width), "nan" if image.fault == "no pixel size" else f"{image.look.pixel_size_um:g}"
