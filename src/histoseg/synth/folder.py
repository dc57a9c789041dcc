"""A synthetic competition in the folder layout of hubmap-organ-segmentation (2022), its hidden truth kept outside.

Pixel sizes are the real competition's, but the images are smaller; so the anatomy is shrunk with them: an image of
`max_side` pixels at 0.4 um shows about as many objects as a real one of 3000 pixels. The shrink factor is
max_side / 3000, and at least 0.2. Ids begin above the real ones, so that nothing known of a real image meets them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from histoseg.core.log import logger
from histoseg.core.rle import encode_rle
from histoseg.schema.atomic import write_bytes_atomically
from histoseg.synth.files import TIFF_LAYOUTS, csv_bytes, tiff_bytes
from histoseg.synth.tissue import Stain, draw_picture, draw_stain

SYNTH_ORGANS = ("kidney", "largeintestine", "lung", "spleen", "prostate")
TEST_COLUMNS = ("id", "organ", "data_source", "img_height", "img_width", "pixel_size", "tissue_thickness")
TRAIN_COLUMNS = (*TEST_COLUMNS, "rle", "age", "sex", "patient")
TRUTH_COLUMNS = ("id", "organ", "data_source", "rle", "img_height", "img_width")

_HPA_PIXEL_UM, _HPA_THICKNESS_UM = 0.4, 4.0
_HUBMAP_PIXEL_UM = {"kidney": 0.5, "largeintestine": 0.229, "lung": 0.7562, "spleen": 0.4945, "prostate": 6.263}
_HUBMAP_THICKNESS_UM = {"kidney": 10.0, "largeintestine": 8.0, "lung": 5.0, "spleen": 4.0, "prostate": 5.0}
_REAL_SIDE_PX = 3000
_LEAST_SHRINK = 0.2
_LEAST_SIDE_PX = 160
_ID_RANGE = (40_000, 100_000)
# First words of the keys of random streams: one stream a purpose, so that no draw moves another.
_IDS, _DONORS, _TRAIN, _TEST = range(4)


@dataclass(frozen=True, kw_only=True)
class SynthKey:
    """What was made, and what the folder itself does not tell.

    Attributes:
        root: The competition's folder.
        truth_path: The csv of the test images' truth, outside the folder.
        seed: What it was made from.
        train_ids: Ids of train.csv in its order.
        test_ids: Ids of test.csv in its order.
        donors: Donor of every id, test ids too; donors of the splits are distinct.
    """

    root: Path
    truth_path: Path
    seed: int
    train_ids: tuple[str, ...]
    test_ids: tuple[str, ...]
    donors: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Slide:
    """One row of a table before its image is drawn."""

    id: str
    index: int
    split: int
    organ: str
    source: str
    donor: int
    male: bool
    pixel_size_um: float
    thickness_um: float

    @property
    def donor_name(self) -> str:
        return f"{'P' if self.split == _TRAIN else 'T'}{self.donor + 1:02d}"


def make_hubmap_2022(
    root: Path,
    *,
    num_train: int = 20,
    num_test: int = 6,
    seed: int = 0,
    max_side: int = 1000,
    truth_path: Path | None = None,
    progress: bool = True,
) -> SynthKey:
    """Write the folder: tables, images and annotations; the tables last.

    Train images are HPA's (haematoxylin and DAB, 0.4 um), two or three a donor. Of the test images every other one is
    Hubmap's (PAS or eosin, another pixel size and thickness): the real domain gap. An image depends on the seed, its
    split and its id alone; a file that is already there is replaced, others are left.

    Args:
        root: Folder to fill; made if missing.
        num_train: Count of train images, at least 2.
        num_test: Count of test images, at least 1.
        seed: Same seed and sizes, same bytes (with the same versions of the encoders). Not negative.
        max_side: Longest side of an image in pixels, at least 160. Smaller images hold smaller objects.
        truth_path: Where the test truth goes, outside `root`; default ROOT_truth.csv beside it.
        progress: Show a progress bar.

    Returns:
        The key.

    Raises:
        ValueError: A count or size is too small, or the truth would lie inside the folder.
    """
    truth_path = truth_path or root.with_name(f"{root.name}_truth.csv")
    _refuse_bad_request(root, truth_path, num_train, num_test, seed, max_side)
    train, test = _plan_slides(seed, num_train, num_test)
    rows: dict[int, list[dict[str, str]]] = {_TRAIN: [], _TEST: []}
    bar = tqdm([*train, *test], desc="synthetic slides", unit="image", disable=not progress)
    for slide in bar:
        rows[slide.split].append(_make_slide(root, slide, seed, max_side))
    _write_table(root / "train.csv", TRAIN_COLUMNS, rows[_TRAIN])
    _write_table(root / "test.csv", TEST_COLUMNS, rows[_TEST])
    _write_table(root / "sample_submission.csv", ("id", "rle"), [row | {"rle": "1 1"} for row in rows[_TEST]])
    _write_table(truth_path, TRUTH_COLUMNS, rows[_TEST])
    logger.info("synthetic competition: %d train and %d test images in %s", num_train, num_test, root)
    return SynthKey(
        root=root,
        truth_path=truth_path,
        seed=seed,
        train_ids=tuple(slide.id for slide in train),
        test_ids=tuple(slide.id for slide in test),
        donors={slide.id: slide.donor_name for slide in [*train, *test]},
    )


def mask_polygons(mask_HW: np.ndarray) -> list[list[list[int]]]:
    """Outer outlines of a mask's pieces as closed rings of [x, y], holes left out."""
    contours, _ = cv2.findContours(mask_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rings = []
    for contour in contours:
        fewer = cv2.approxPolyDP(contour, 0.7, True)
        ring = fewer if len(fewer) >= 3 else contour
        if len(ring) >= 3:
            rings.append(ring[:, 0].tolist())
    return rings


def _refuse_bad_request(root: Path, truth_path: Path, num_train: int, num_test: int, seed: int, max_side: int) -> None:
    for name, value, least in (
        ("num_train", num_train, 2),
        ("num_test", num_test, 1),
        ("seed", seed, 0),
        ("max_side", max_side, _LEAST_SIDE_PX),
    ):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    room = _ID_RANGE[1] - _ID_RANGE[0]
    if num_train + num_test > room:
        raise ValueError(f"{num_train} train and {num_test} test images are more than the {room} ids that there are")
    if truth_path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"truth_path {truth_path} lies inside {root}: name a file outside it, the truth is hidden")


def _stream(seed: int, *key: int) -> np.random.Generator:
    """The random stream of a purpose: the same whatever was drawn before."""
    return np.random.default_rng(np.random.SeedSequence([seed, *key]))


def _plan_slides(seed: int, num_train: int, num_test: int) -> tuple[list[_Slide], list[_Slide]]:
    """Ids, organs, sources and donors of both splits."""
    ids = _stream(seed, _IDS).permutation(np.arange(*_ID_RANGE))
    # One split from each end: more images of one do not change the ids of the other.
    return list(_plan_split(ids[:num_train], _TRAIN)), list(_plan_split(ids[::-1][:num_test], _TEST))


def _plan_split(ids: np.ndarray, split: int) -> Iterator[_Slide]:
    donors = np.concatenate([np.full(size, donor) for donor, size in enumerate(_donor_sizes(len(ids)))])
    organs = [SYNTH_ORGANS[index % len(SYNTH_ORGANS)] for index in range(len(ids))]
    with_prostate = {int(donor) for donor, organ in zip(donors, organs, strict=True) if organ == "prostate"}
    for index, (number, organ) in enumerate(zip(ids, organs, strict=True)):
        hubmap = split == _TEST and index % 2 == 0
        yield _Slide(
            id=str(number),
            index=index,
            split=split,
            organ=organ,
            source="Hubmap" if hubmap else "HPA",
            donor=int(donors[index]),
            male=int(donors[index]) in with_prostate,
            pixel_size_um=_HUBMAP_PIXEL_UM[organ] if hubmap else _HPA_PIXEL_UM,
            thickness_um=_HUBMAP_THICKNESS_UM[organ] if hubmap else _HPA_THICKNESS_UM,
        )


def _donor_sizes(count: int) -> list[int]:
    """Twos and threes in turn that add up to `count` (one is one)."""
    sizes: list[int] = []
    while count > 0:
        size = 2 + len(sizes) % 2
        if count - size == 1:
            size = 2 if size == 3 else 3
        sizes.append(min(size, count))
        count -= sizes[-1]
    return sizes


def _donor_stain(seed: int, slide: _Slide) -> Stain:
    second = "dab" if slide.source == "HPA" else "pas" if slide.organ == "kidney" else "eosin"
    return draw_stain(_stream(seed, _DONORS, slide.split, slide.donor), second)


def _draw_shape(rng: np.random.Generator, slide: _Slide, max_side: int) -> tuple[int, int]:
    """Height and width: about the same field in um whatever the pixel size, within the limits of both sides."""
    long_px = max_side * rng.uniform(0.85, 1.0)
    short_px = long_px * rng.uniform(0.72, 0.96)
    factor = max(_HPA_PIXEL_UM / slide.pixel_size_um, _LEAST_SIDE_PX / short_px)
    factor = min(factor, max_side / long_px)
    sides = round(short_px * factor), round(long_px * factor)
    return sides if rng.random() < 0.5 else sides[::-1]


def _make_slide(root: Path, slide: _Slide, seed: int, max_side: int) -> dict[str, str]:
    """Draw and write one image; its row with all columns of all tables."""
    rng = _stream(seed, slide.split, int(slide.id))
    shape_hw = _draw_shape(rng, slide, max_side)
    picture = draw_picture(
        rng,
        organ=slide.organ,
        stain=_donor_stain(seed, slide),
        shape_hw=shape_hw,
        pixel_size_um=slide.pixel_size_um,
        shrink=max(max_side / _REAL_SIDE_PX, _LEAST_SHRINK),
        thickness_um=slide.thickness_um,
    )
    layout = tuple(TIFF_LAYOUTS)[slide.index % len(TIFF_LAYOUTS)]
    folder = "train_images" if slide.split == _TRAIN else "test_images"
    write_bytes_atomically(root / folder / f"{slide.id}.tiff", tiff_bytes(picture.image, layout))
    if slide.split == _TRAIN:
        polygons = json.dumps(mask_polygons(picture.mask), separators=(",", ":"))
        write_bytes_atomically(root / "train_annotations" / f"{slide.id}.json", polygons.encode())
    return {
        "id": slide.id,
        "organ": slide.organ,
        "data_source": slide.source,
        "img_height": str(shape_hw[0]),
        "img_width": str(shape_hw[1]),
        "pixel_size": f"{slide.pixel_size_um:.4g}",
        "tissue_thickness": f"{slide.thickness_um:.0f}",
        "rle": encode_rle(picture.mask),
    } | _donor_facts(seed, slide)


def _donor_facts(seed: int, slide: _Slide) -> dict[str, str]:
    rng = _stream(seed, _DONORS, slide.split, slide.donor, 1)
    age, female = rng.integers(20, 85), rng.random() < 0.5 and not slide.male
    return {"age": f"{age:.1f}", "sex": "Female" if female else "Male", "patient": slide.donor_name}


def _write_table(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    write_bytes_atomically(path, csv_bytes(columns, [[row[column] for column in columns] for row in rows]))
