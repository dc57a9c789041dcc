"""What strangers may write, as targets of a fuzzer: each reads a file, and gives a value or a fault of ours in words.

`tests/test_fuzz.py` changes the seeds at random for some seconds; `benchmarks/fuzz.py` does so for long, with a
fuzzer that sees which lines of ours are reached.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import re
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np

from histofold.competitions.answers import check_results, read_prediction_string, vessel_row_faults
from histofold.competitions.folder import Folder
from histofold.competitions.image_table import read_image_table
from histofold.competitions.outlines import read_outlines
from histofold.competitions.polygons import drawn_objects, read_polygons
from histofold.competitions.tables import read_shape, scan_host_table, table_header
from histofold.competitions.truth.coco import coco_categories, coco_objects, load_coco, read_coco
from histofold.competitions.truth.masks.facts import mask_facts
from histofold.competitions.truth.masks.files import decode_mask
from histofold.competitions.truth.masks.values import MaskSettings, read_class_labels
from histofold.competitions.truth.names import ImageNames
from histofold.competitions.truth.outlines.files import draw_outlines, read_outline_file
from histofold.core.faults import ImageError, InputError, parted
from histofold.core.objects.coco import counts_text, runs_from_counts
from histofold.core.rle.runs import decode_rle, decode_rle_window, encode_rle, runs_from_mask
from histofold.data.contents import Content
from histofold.data.store import DatasetInfo
from histofold.imaging.formats.door import use_formats
from histofold.imaging.slide import open_slide
from histofold.schema.experiment import Experiment
from histofold.schema.files import LineJournal, weights_rule
from histofold.schema.manifest import Manifest, Member, load_manifest, manifest_json, read_thresholds
from histofold.schema.parse import load_json, load_toml, plain, to_toml
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.run_record import read_record
from histofold.schema.shard import Shard
from histofold.schema.sweep import load_sweep
from imaging.slide_files import small_files
from small_datasets import small_record
from small_submission import tensor_file

SHAPE = (37, 53)
"""Height and width of the image that masks and outlines belong to."""
SEGMENT_BYTES = 50_000_000
"""Most that a slide may decode in one piece here."""


@dataclass(frozen=True)
class Target:
    """Something that reads a file."""

    name: str
    """Name of the file; its folder holds nothing else."""
    read: Callable[[Path], object]
    """Reads it."""
    seeds: tuple[bytes, ...]
    """Files without a fault."""
    words: tuple[str, ...] = ()
    """What a change may put in."""
    refusals: tuple[type[Exception], ...] = (InputError, ImageError)
    """How it may refuse a file."""


def broken_promise(target: Target, content: bytes, folder: Path) -> str:
    """Read a content; gives the traceback of an error that is none of ours or has no words, else nothing."""
    path = folder / target.name
    path.write_bytes(content)
    try:
        target.read(path)
    except target.refusals as error:
        return "" if str(error).strip() else f"a refusal without words: {traceback.format_exc()}"
    except Exception:
        return traceback.format_exc()
    return ""


def changed(target: Target, draws: random.Random) -> bytes:
    """A seed after some changes."""
    content = bytearray(draws.choice(target.seeds))
    for _ in range(draws.choice((1, 1, 2, 4, 8))):
        at, end = sorted(draws.randrange(len(content) + 1) for _ in range(2))
        end = min(end, at + draws.choice((1, 4, 64, 4096)))
        kind = draws.randrange(7)
        if kind == 0:
            content[at:end] = b""
        elif kind == 1:
            content[at:at] = content[at:end] * draws.choice((1, 1, 2, 50))
        elif kind == 2:
            content[at : at + 1] = bytes([draws.randrange(256)])
        elif kind == 3:
            content[at:end] = draws.choice((*target.words, *WORDS)).encode("utf-8", "surrogatepass")
        elif kind == 4:
            other = draws.choice(target.seeds)
            content[at:end] = other[at : at + draws.choice((4, 64, 4096))]
        elif kind == 5:
            content = _with_other_number(content, target, draws)
        else:
            content[at : at + 4] = draws.choice(INTEGERS).to_bytes(4, draws.choice(("little", "big")))
    return bytes(content)


WORDS = (
    *("", " ", "\n", "\0", ",", ";", "=", '"', "'", "{", "}", "[", "]", "-", "id", "null", "true"),
    *("\ud800", "\\ud800", "\ufeff"),
    *("NaN", "-Infinity", "1e999", "-1", "0", "1.5", "2147483648", "9223372036854775808", "9" * 400, "1" * 5000),
    *("[" * 3000, '{"a":' * 3000, "../../etc/passwd", "=cmd|' /C calc'!A0", "<script>", "&a;", "\u202e"),
)
INTEGERS = (0, 1, 2, 3, 255, 256, 65535, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS = ("0", "-1", "1e308", "1e999", "NaN", "9" * 20, "9" * 400, '"1"', "[]", "{}", "null", "true", '""', "0.1")


def _with_other_number(content: bytearray, target: Target, draws: random.Random) -> bytearray:
    """One number, text or name of a text file replaced by something else."""
    places = [found.span() for found in re.finditer(rb'-?\d+(\.\d+)?|"[^"\n]*"|\b(true|false|null)\b', content)]
    if places:
        start, stop = draws.choice(places)
        content[start:stop] = draws.choice((*NUMBERS, *target.words)).encode("utf-8", "surrogatepass")
    return content


# -- what is read ------------------------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def _rle(path: Path) -> None:
    for order in "FC":
        mask_HW = decode_rle(_text(path), SHAPE, order)
        window = decode_rle_window(_text(path), SHAPE, (3, 5, 30, 50), order)
        assert (window == mask_HW[3:30, 5:50]).all()
        assert (decode_rle(encode_rle(mask_HW, order), SHAPE, order) == mask_HW).all()


def _counts(path: Path) -> None:
    runs = runs_from_counts(path.read_bytes(), SHAPE)
    assert runs_from_counts(counts_text(runs), SHAPE).area == runs.area


def _prediction(path: Path) -> None:
    found = read_prediction_string(_text(path), SHAPE)
    assert len(found.objects) == len(found.scores)


def _tables(path: Path) -> None:
    table_header(path)
    read_image_table(path, ["a", "b"], ["c"])


def _host_table(path: Path) -> None:
    table, _ = scan_host_table(path, ("id", "rle"))
    for row in table.to_dict("records"):
        read_shape(row, ("height", "width"))
    if {"id", "height", "width", "prediction_string"} <= set(table.columns):
        vessel_row_faults(path, table, {"a": SHAPE})


def _sweep(path: Path) -> None:
    (path.parent / "base.toml").write_text("")
    load_sweep(path)


def _manifest(path: Path) -> None:
    manifest = load_json(Manifest, path)
    path.write_text(manifest_json(manifest))
    assert load_json(Manifest, path) == manifest
    (path.parent / "a.safetensors").write_bytes(b"")
    load_manifest(path.parent)


def _toml(path: Path) -> None:
    experiment = load_toml(Experiment, path)
    path.write_text(to_toml(experiment))
    assert load_toml(Experiment, path) == experiment


def _polygons(path: Path) -> None:
    found = read_polygons(path, ("blood_vessel", "glomerulus", "unsure"), {"a": SHAPE, "b": SHAPE}.get)
    for polygons in found.by_tile.values():
        drawn_objects(polygons, SHAPE)


def _outlines(path: Path) -> None:
    outlines, _ = read_outline_file(path)
    try:
        draw_outlines(outlines, SHAPE)
    except ValueError as error:
        assert str(error)  # noqa: PT017 -- in words; whoever calls adds the file
    if path.suffix != ".xml":
        read_outlines(path, "a")


def _coco(path: Path) -> None:
    data, faults = load_coco(path)
    if not faults:
        categories = coco_categories(data)
        names = ImageNames({key: Path(f"{key}.png") for key in "ab"})
        shapes = {"a": SHAPE, "b": SHAPE}
        if not parted(read_coco(path, data, shapes, tuple(categories), names).faults)[0]:
            coco_objects(path, shapes, names)


def _image(path: Path) -> None:
    with open_slide(path, max_pixels=10**8, max_segment_bytes=SEGMENT_BYTES) as slide:
        height, width = slide.shape_hw
        for y, x in ((0, 0), (height - 1, width - 1)):
            region = slide.read(slice(y, min(y + 16, height)), slice(x, min(x + 16, width)))
            assert region.dtype == np.uint8


def _mask(path: Path) -> None:
    mask = decode_mask(path, SHAPE)
    colours_HWS, _ = mask.planes()
    assert colours_HWS.shape[:2] == SHAPE
    mask_facts(mask, "", None)
    if not mask.is_lossy:
        read_class_labels(mask, 3, MaskSettings(ignore_value=255))


def _folder(path: Path) -> None:
    """A plain folder whose settings, table of run lengths or table of images are changed."""
    root = path.parent
    if not (root / "images").is_dir():
        (root / "images").mkdir()
        for name in "ab":
            cv2.imwrite(str(root / "images" / f"{name}.png"), np.full((*SHAPE, 3), 200, np.uint8))
    competition = Folder()
    if path.name != "rles.csv":
        (root / "rles.csv").write_text("id,rle\na,1 3\nb,\n")
    samples, faults = competition.inspect(root, "train")
    if parted(faults)[0]:
        raise InputError(faults)
    for sample in samples:
        competition.target(sample)


# -- what they begin with ----------------------------------------------------------------------------------------------


def _rle_seeds() -> tuple[bytes, ...]:
    random_HW = np.random.default_rng(0).random(SHAPE) < 0.3
    return (b"", b"1 3 10 5", b"1960 2", encode_rle(random_HW).encode(), b"1\t2\r\n\xe2\x80\x894 1")


def _count_seeds() -> tuple[bytes, ...]:
    masks = (np.random.default_rng(0).random(SHAPE) < 0.3, np.ones(SHAPE, bool), np.eye(*SHAPE, dtype=bool))
    return tuple(counts_text(runs_from_mask(mask)).encode() for mask in masks)


def _prediction_seeds() -> tuple[bytes, ...]:
    packed = [base64.b64encode(zlib.compress(counts)).decode() for counts in _count_seeds()]
    return (b"", f"0 0.5 {packed[0]}".encode(), f"0 1 {packed[1]} 0 1e-3 {packed[2]}".encode())


def _json(*values: object) -> tuple[bytes, ...]:
    return tuple(json.dumps(value, indent=1).encode() for value in values)


def _image_seeds() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as folder:
        return tuple(path.read_bytes() for _, path in small_files(Path(folder), *SHAPE))


def _of_kind(contents: tuple[bytes, ...], is_tiff: bool) -> tuple[bytes, ...]:
    return tuple(content for content in contents if (content[:2] in (b"II", b"MM")) == is_tiff)


def _mask_seeds() -> tuple[bytes, ...]:
    labels_HW = np.random.default_rng(0).integers(0, 4, SHAPE, np.uint8)
    made = [cv2.imencode(suffix, labels_HW)[1].tobytes() for suffix in (".png", ".tif", ".bmp", ".jpg")]
    return (*made, cv2.imencode(".png", labels_HW.astype(np.uint16))[1].tobytes())


SQUARE = [[2, 3], [20, 3], [20, 30], [2, 30], [2, 3]]
GEOJSON = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}},
            "geometry": {"type": "Polygon", "coordinates": [SQUARE, [[4, 5], [8, 5], [8, 9], [4, 5]]]},
        },
        {"properties": {"class": "b"}, "geometry": {"type": "MultiPolygon", "coordinates": [[SQUARE]]}},
        {"properties": {"name": "c"}, "geometry": {"type": "GeometryCollection", "geometries": []}},
    ],
}
LABELME = {
    "imageHeight": 37,
    "imageWidth": 53,
    "shapes": [
        {"label": "a", "points": SQUARE, "shape_type": "polygon"},
        {"label": "b", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"},
        {"label": "c", "points": [[20, 20], [25, 20]], "shape_type": "circle"},
    ],
}
APERIO = b"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE Annotations [<!ENTITY a "1">]>
<Annotations MicronsPerPixel="0.5"><Annotation Id="1" Name=""><Attributes><Attribute Name="Tumor" Value=""/>
</Attributes><Regions><Region Id="1" Type="0" NegativeROA="0"><Vertices><Vertex X="2" Y="3"/><Vertex X="20.5" Y="3"/>
<Vertex X="20" Y="30"/></Vertices></Region><Region Type="2" NegativeROA="1"><Vertices><Vertex X="4" Y="5"/>
<Vertex X="9" Y="&a;"/></Vertices></Region></Regions></Annotation></Annotations>"""
POLYGON = {"type": "blood_vessel", "coordinates": [SQUARE]}
COCO = {
    "images": [{"id": n, "file_name": f"{name}.png", "height": 37, "width": 53} for n, name in enumerate("ab")],
    "categories": [{"id": 1, "name": "x"}, {"id": "2", "name": "y"}],
    "annotations": [
        {"id": 1, "image_id": 0, "category_id": 1, "iscrowd": 0, "segmentation": [[2, 3, 20, 3, 20, 30, 2, 30]]},
        {"image_id": 1, "category_id": 2, "iscrowd": 1, "segmentation": {"size": [37, 53], "counts": [0, 5, 1956]}},
        {"image_id": 1, "category_id": 2, "segmentation": {"size": [37, 53], "counts": "05Tm1"}},
    ],
}
TABLE = b"id,organ,source,patient,pixel_size,height,width,rle\na,lung,HPA,p1,0.5,37,53,1 3 9 2\nb,kidney,x,p2,,37,53,\n"
VESSEL_TABLE = b"id,height,width,prediction_string\na,37,53,\n"
SPREADSHEET = 'sep=;\r\nid;"rle";height;width\r\n"b";"1 2";37;53\r\na;;37;53\r\n'.encode("utf-16")
SWEEP = b"""experiment = "base.toml"
folds = [0, 1]
sampler = "tpe"
trials = 5
pruner = "median"
[space]
"optim.lr" = { low = 1e-4, high = 1e-2, log = true }
"optim.ema" = { low = 0.0, high = 0.9, step = 0.3 }
"train.steps" = [20, 30]
"model.encoder" = ["resnet18", "resnet34"]
"""
FOLDER_TOML = b'mask_values = [1, 2]\ntask = "masks"\nignore_value = 255\n'


def _manifest_seed() -> Manifest:
    arguments = {"classes": 1, "encoder": "resnet18", "decoder_channels": [16, 16, 8, 8, 8]}
    member = Member(
        file="a.safetensors",
        sha256=hashlib.sha256(b"").hexdigest(),
        architecture="unet",
        arguments=arguments,
        weight=0.5,
    )
    spec = Preprocessing(scale_mode="physical", target_pixel_size_um=1.6)
    return Manifest(
        competition="hubmap_2022",
        preprocessing=spec,
        members=(member,),
        thresholds={"default": 0.5, "lung/HPA": 0.3},
        views=("identity", "hflip", "rot90@0.8"),
    )


def _record_seeds() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as folder:
        small_record(Path(folder), 0, dice_by_id={"a": 0.5}, inputs={"pixels:a": "d"})
        return (Path(folder, "run.json").read_bytes(),)


def _shard_seed() -> Shard:
    return Shard(
        competition="hubmap_2022",
        columns=("id", "rle"),
        classes=("ftu",),
        manifests=("m",),
        all_ids_sha256="d",
        num_ids=3,
        num_shards=2,
        shard_id=0,
        ids=("a", "b"),
        places=(0, 2),
        fallback={"a": "why"},
        csv_sha256="c",
        inputs_sha256="i",
    )


def _dataset_seed() -> DatasetInfo:
    experiment = Experiment()
    return DatasetInfo(
        competition="folder",
        root="raw",
        preprocessing=experiment.preprocessing,
        tiles=experiment.tiles,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        contents={"a": Content(pixels="p", size=9, time_ns=1, mask="t", row={"organ": "lung"})},
    )


@cache
def fuzz_targets() -> dict[str, Target]:
    """All targets by name."""
    use_formats()
    images = _image_seeds()
    kinds = ("unet", "segformer", "physical", "whole", "imagenet", "dataset", "none", "instances", "softmax")
    json_words = (
        *kinds,
        "type",
        "features",
        "geometry",
        "Polygon",
        "names",
        "shapes",
        "mask",
        "images",
        "segmentation",
    )
    as_text = {"words": json_words}
    return {
        "rle": Target("a.txt", _rle, _rle_seeds(), refusals=(ValueError,)),
        "coco counts": Target("a.txt", _counts, _count_seeds(), refusals=(ValueError,)),
        "prediction string": Target("a.txt", _prediction, _prediction_seeds(), refusals=(ValueError,)),
        "csv table": Target("images.csv", _tables, (TABLE, SPREADSHEET)),
        "host table": Target("s.csv", _host_table, (TABLE, VESSEL_TABLE), words=(VESSEL_TABLE.decode(), "\n", ",")),
        "rle table": Target(
            "rles.csv", _folder, (b"id,rle\na,1 3\nb,\n", b"id,class,rle\na,x,1 3\na,y,\nb,x,5 1\nb,y,\n")
        ),
        "folder.toml": Target("folder.toml", _folder, (FOLDER_TOML,)),
        "experiment": Target("e.toml", _toml, (to_toml(Experiment()).encode(),), **as_text),
        "sweep": Target("s.toml", _sweep, (SWEEP,), **as_text),
        "manifest": Target("manifest.json", _manifest, (manifest_json(_manifest_seed()).encode(),), **as_text),
        "run record": Target("run.json", lambda path: read_record(path.parent), _record_seeds(), **as_text),
        "shard": Target("s.csv.json", partial(load_json, Shard), _json(plain(_shard_seed())), **as_text),
        "dataset.json": Target(
            "dataset.json", partial(load_json, DatasetInfo), _json(plain(_dataset_seed())), **as_text
        ),
        "thresholds": Target("thresholds.json", read_thresholds, _json({"default": 0.5, "lung": 0.2})),
        "journal": Target("j.jsonl", LineJournal, (b'{"id": "a", "score": 0.5}\n{"id": "b"}\n',)),
        "weights header": Target("w.safetensors", weights_rule, (_weights_seed(),)),
        "polygons": Target("p.jsonl", _polygons, _polygon_seeds(), **as_text),
        "geojson": Target("p.geojson", _outlines, _json(GEOJSON, GEOJSON["features"]), **as_text),
        "labelme": Target("p.json", _outlines, _json(LABELME), **as_text),
        "aperio": Target("p.xml", _outlines, (APERIO,), words=("<!ENTITY b '&a;&a;'>", "<Region>", "&b;", "<?x?>")),
        "coco": Target("c.json", _coco, _json(COCO), **as_text),
        "answers": Target("answer.json", partial(check_results, shapes={0: SHAPE, "b": SHAPE}), _json(_answer_seed())),
        "tiff": Target("a.tif", _image, _of_kind(images, is_tiff=True)),
        "raster": Target("a.img", _image, _of_kind(images, is_tiff=False)),
        "mask file": Target("a.png", _mask, _mask_seeds()),
    }


def _weights_seed() -> bytes:
    return tensor_file(b"weights")


def _polygon_seeds() -> tuple[bytes, ...]:
    line = json.dumps({"id": "a", "annotations": [POLYGON, {"type": "unsure", "coordinates": [SQUARE[:3], SQUARE]}]})
    return ((line + "\n" + line.replace('"a"', '"b"')).encode(),)


def _answer_seed() -> list[object]:
    square_HW = np.zeros(SHAPE, bool)
    square_HW[3:9, 2:20] = True
    segmentation = {"size": list(SHAPE), "counts": counts_text(runs_from_mask(square_HW))}
    return [
        {"image_id": key, "category_id": 1, "bbox": [2, 3, 18, 6], "segmentation": segmentation, "score": 0.5}
        for key in (0, "b")
    ]


def broken_promises(
    name: str, count: int, seed: int, folder: Path, before: Callable[[], object] = lambda: None
) -> Iterator[tuple[bytes, str]]:
    """Read the seeds of a target and changes of them, so many in all; gives the contents that break the promise.

    Args:
        name: The target.
        count: How many are read.
        seed: Of the changes.
        folder: An empty folder.
        before: Called before each is read.
    """
    target, draws = fuzz_targets()[name], random.Random(f"{name} {seed}")
    with redirect_stderr(io.StringIO()):
        for number in range(count):
            content = target.seeds[number] if number < len(target.seeds) else changed(target, draws)
            before()
            told = broken_promise(target, content, folder)
            if told:
                yield content, told
