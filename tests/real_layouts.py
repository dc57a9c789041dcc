"""Lays slides with known masks out as people have them; whole folders by `python tests/real_layouts.py KIND OUT`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from skimage.measure import find_contours, label

from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.imaging.slide import open_slide

Slides = Iterable[tuple[str, np.ndarray, np.ndarray]]
"""Id, image uint8 HWC and labels (H, W) of objects, 0 background."""


def glas_slides(shared_data: Path, most: int | None = None) -> Slides:
    """The slides of glas_hubmap_layout, their glands numbered."""
    root = shared_data / "glas_hubmap_layout"
    competition = Hubmap2022()
    for sample in competition.samples(root, "train")[:most]:
        with open_slide(sample.image_path) as slide:
            yield sample.id, slide.read_all(), label(competition.target(sample).to_mask(), connectivity=1)


def dsb_slides(shared_data: Path, most: int | None = None) -> Slides:
    """The slides of dsb2018_colour."""
    for path in sorted((shared_data / "dsb2018_colour" / "images").iterdir())[:most]:
        labels_HW = cv2.imread(str(path.parents[1] / "masks" / path.name), cv2.IMREAD_UNCHANGED)
        yield path.stem, cv2.imread(str(path))[:, :, ::-1], labels_HW


def write_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture[:, :, ::-1] if picture.ndim == 3 else picture)


def as_glas_ships(slides: Slides, out: Path) -> None:
    """Images and label masks as BMP in one folder."""
    for key, image_HWC, labels_HW in slides:
        write_picture(out / f"{key}.bmp", image_HWC)
        write_picture(out / f"{key}_anno.bmp", labels_HW.astype(np.uint8))


def as_dsb_2018(slides: Slides, out: Path) -> None:
    """A folder an image, a mask an object."""
    for key, image_HWC, labels_HW in slides:
        write_picture(out / "stage1_train" / key / "images" / f"{key}.png", image_HWC)
        for number in np.unique(labels_HW[labels_HW > 0]):
            object_HW = (labels_HW == number).astype(np.uint8) * 255
            write_picture(out / "stage1_train" / key / "masks" / f"{number:04d}.png", object_HW)


def as_coco(slides: Slides, out: Path) -> None:
    """Compressed run lengths, an annotation an object."""
    images, notes = [], []
    for number, (key, image_HWC, labels_HW) in enumerate(slides):
        write_picture(out / "images" / f"{key}.png", image_HWC)
        height, width = labels_HW.shape
        images.append({"id": number, "file_name": f"images\\{key}.png", "height": height, "width": width})
        for each in np.unique(labels_HW[labels_HW > 0]):
            packed = coco_mask.encode(np.asfortranarray(labels_HW == each, np.uint8))
            packed["counts"] = packed["counts"].decode()
            notes.append({"id": len(notes), "image_id": number, "category_id": 1, "iscrowd": 0, "segmentation": packed})
    data = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "object"}]}
    (out / "annotations.json").write_text(json.dumps(data))


def as_geojson(slides: Slides, out: Path, decimals: int = 0) -> None:
    """Outlines as QuPath exports them, a feature an object, its holes as further rings; corners are rounded."""
    (out / "annotations").mkdir(parents=True)
    for key, image_HWC, labels_HW in slides:
        write_picture(out / "images" / f"{key}.png", image_HWC)
        features = []
        for each in np.unique(labels_HW[labels_HW > 0]):
            # Midway between pixel middles, which stand at 0.5 where the first pixel covers 0 to 1.
            rings = [ring[:, ::-1] - 0.5 for ring in find_contours(np.pad(labels_HW == each, 1), 0.5)]
            pieces, holes = (
                [ring.round(decimals).tolist() for ring in rings if (_signed_area(ring) > 0) == is_piece]
                for is_piece in (True, False)
            )
            coordinates = [[ring] for ring in pieces[:-1]] + [[*pieces[-1:], *holes]]
            geometry = {"type": "MultiPolygon", "coordinates": coordinates}
            features.append({"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}})
        text = json.dumps({"type": "FeatureCollection", "features": features})
        (out / "annotations" / f"{key}.geojson").write_text(text)


def _signed_area(ring_P2: np.ndarray) -> float:
    x, y = ring_P2.T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


LAYOUTS = {"glas": (glas_slides, as_glas_ships), "dsb": (dsb_slides, as_dsb_2018)}
LAYOUTS |= {"coco": (glas_slides, as_coco), "geojson": (glas_slides, as_geojson)}

if __name__ == "__main__":
    slides_of, lay_out = LAYOUTS[sys.argv[1]]
    lay_out(slides_of(Path(__file__).resolve().parents[2] / "shared" / "data"), Path(sys.argv[2]))
