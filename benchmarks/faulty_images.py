"""Damaged and unusual images: what our reader makes of them, and what cv2, tifffile and Pillow make of the same files.

    python benchmarks/faulty_images.py

MONAI and tiatoolbox, no requirements of ours, are asked too where they are installed: a TIFF by MONAI's WSIReader with
tifffile behind it, other files by its LoadImage; tiatoolbox's WSIReader opens a file and reads all of its first level.
Each file is read in a process of its own with 2 GiB of further memory. `right`: the pixels of the picture, in the
reader's own depth; `layout`: its numbers with axes in another order; `refused`: an error, or None; `other`: other
pixels (of tifffile also the stored ones, as indices of a palette) without a word; `memory`: it asked for more.
"""

from __future__ import annotations

import io
import os
import resource
import struct
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from histofold.imaging.slide import open_slide
from imaging.slide_files import png_bytes, smooth, tiny_tiff

HEIGHT, WIDTH = 101, 133
PICTURE = smooth(HEIGHT, WIDTH)
MEMORY_BYTES = 2 << 30


def tiff(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **{"photometric": "rgb", **options})
    return stream.getvalue()


def pillow(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


def with_tag(content: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a tag of the first page."""
    changed, start = bytearray(content), struct.unpack_from("<I", content, 4)[0]
    for place in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", content, start)[0], 12):
        number, kind = struct.unpack_from("<HH", content, place)
        if number == tag:
            struct.pack_into("<H" if kind == 3 else "<I", changed, place + 8, value)
    return bytes(changed)


def contents() -> dict[str, tuple[bytes, np.ndarray | None]]:
    """Files by name, each with the picture that it holds, or None where no reader can give it."""
    floats_HWC, deep_HWC = PICTURE.astype(np.float32) / 255, PICTURE.astype(np.uint16) * 257
    planes_CHW = np.ascontiguousarray(PICTURE.transpose(2, 0, 1))
    nan_HWC = floats_HWC.copy()
    nan_HWC[50, 60] = np.nan
    colours = Image.fromarray(PICTURE)
    palette = colours.quantize(64)
    deflate, strips = tiff(PICTURE, compression="zlib", rowsperstrip=16), tiff(PICTURE, rowsperstrip=16)
    png, jpeg = pillow(colours, "PNG"), pillow(colours, "JPEG", quality=95)
    alpha_HWC = np.dstack([PICTURE, np.full((HEIGHT, WIDTH), 128, np.uint8)])
    middle = len(deflate) // 2
    return {
        "16-bit RGB": (tiff(deep_HWC, compression="zlib"), PICTURE),
        "float 0 to 1": (tiff(floats_HWC), PICTURE),
        "planar": (tiff(planes_CHW, planarconfig="separate"), PICTURE),
        "BigTIFF": (tiff(PICTURE, bigtiff=True, tile=(32, 32)), PICTURE),
        "palette": (pillow(palette, "TIFF"), np.asarray(palette.convert("RGB"))),
        "alpha": (tiff(alpha_HWC, extrasamples=["unassalpha"]), PICTURE),
        "grey, white is zero": (
            tiff(255 - PICTURE[..., 1], photometric="miniswhite"),
            np.repeat(PICTURE[..., 1:2], 3, 2),
        ),
        "JPEG 2000 in TIFF": (tiff(PICTURE, compression="jpeg2000", tile=(32, 32)), PICTURE),
        "16-bit PNG": (cv2.imencode(".png", deep_HWC[..., ::-1])[1].tobytes(), PICTURE),
        "CMYK TIFF": (pillow(colours.convert("CMYK"), "TIFF"), None),
        "CMYK JPEG": (pillow(colours.convert("CMYK"), "JPEG"), None),
        "signed 16 bit": (tiff(PICTURE.astype(np.int16) - 100), None),
        "two pages": (tiff(np.stack([PICTURE, 255 - PICTURE])), None),
        "NaN": (tiff(nan_HWC), None),
        "floats beyond 1": (tiff(floats_HWC * 1000), None),
        "file cut": (strips[: len(strips) * 6 // 10], None),
        "deflate cut": (deflate[:middle], None),
        "deflate, a bit flipped": (flipped(deflate, middle), None),
        "unknown compression": (with_tag(deflate, 259, 12345), None),
        "height doubled": (with_tag(strips, 257, 2 * HEIGHT), None),
        "width doubled": (with_tag(deflate, 256, 2 * WIDTH), None),
        "claims 30,000 x 16,000": (tiny_tiff(8, (30_000, 16_000), zlib.compress(bytes(10**5)), t278=30_000), None),
        "claims 60,000 x 60,000": (tiny_tiff(1, (60_000, 60_000), bytes(900)), None),
        "header only": (strips[:8], None),
        "PNG cut": (png[: len(png) * 6 // 10], None),
        "PNG, a bit flipped": (flipped(png, len(png) // 2), None),
        "PNG of too few rows": (png_bytes(HEIGHT, WIDTH, zlib.compress(bytes((1 + 3 * WIDTH) * 40))), None),
        "PNG claims 30,000 x 16,000": (png_bytes(30_000, 16_000, zlib.compress(bytes(10**5))), None),
        "JPEG cut": (jpeg[: len(jpeg) * 6 // 10], None),
        "empty": (b"", None),
        "text": (b"id,rle\n1,2 3\n", None),
    }


def ours(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read_all()


def by_cv2(path: Path) -> np.ndarray | None:
    image = cv2.imread(str(path))
    return None if image is None else image[..., ::-1]


def by_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def by_monai(path: Path) -> np.ndarray:
    if path.suffix == ".tif":
        reader = MonaiReader(backend="tifffile")
        return np.asarray(reader.get_data(reader.read(path))[0])
    return np.asarray(LoadImage(image_only=True)(path))


def by_tiatoolbox(path: Path) -> np.ndarray:
    reader = WSIReader.open(path)
    return np.asarray(reader.read_bounds((0, 0, *reader.slide_dimensions(0, "level")), 0, "level"))


READERS: dict[str, Callable[[Path], np.ndarray | None]] = {
    "histofold": ours,
    "cv2": by_cv2,
    "tifffile": tifffile.imread,
    "Pillow": by_pillow,
}
with suppress(ImportError):
    from monai.data import WSIReader as MonaiReader
    from monai.transforms import LoadImage

    READERS["MONAI"] = by_monai
with suppress(ImportError):
    from tiatoolbox.wsicore.wsireader import WSIReader

    READERS["tiatoolbox"] = by_tiatoolbox
OUTCOMES = ("right", "layout", "refused", "other", "memory")


def outcome(read: Callable[[Path], np.ndarray | None], path: Path, picture: np.ndarray | None) -> str:
    try:
        found = read(path)
    except MemoryError:
        return "memory"
    except Exception:
        return "refused"
    if found is None:
        return "refused"
    if picture is None:
        return "other"
    scale = {"u1": 1, "u2": 257, "f4": 1 / 255}.get(found.dtype.str[1:], 1)
    if found.dtype == np.float32 and found.max() > 1:  # MONAI gives every image as float32, in its own range
        scale = 257 if found.max() > 255 else 1
    numbers = found.astype(np.float64) / scale
    if numbers.shape == picture.shape and np.abs(numbers - picture).max() <= 3:
        return "right"
    if numbers.ndim == 3 and numbers.shape[2] == 4 and np.abs(numbers[..., :3] - picture).max() <= 3:
        return "layout"
    axes = [order for order in permutations(range(3)) if numbers.ndim == 3]
    moved = [numbers.transpose(order) for order in axes if numbers.transpose(order).shape == picture.shape]
    return "layout" if any(np.abs(each - picture).max() <= 3 for each in moved) else "other"


def forked_outcome(read: Callable[[Path], np.ndarray | None], path: Path, picture: np.ndarray | None) -> str:
    """The outcome in a process of its own."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as silent:
            os.dup2(silent.fileno(), 1)
            os.dup2(silent.fileno(), 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
        warnings.simplefilter("ignore")
        os._exit(OUTCOMES.index(outcome(read, path, picture)))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return OUTCOMES[status] if 0 <= status < len(OUTCOMES) else "memory"


def main() -> int:
    print("| file | " + " | ".join(READERS) + " |\n|---|" + "---|" * len(READERS))
    counts = {name: dict.fromkeys(OUTCOMES, 0) for name in READERS}
    with tempfile.TemporaryDirectory() as folder:
        for name, (content, picture) in contents().items():
            path = Path(folder) / ("a.png" if content.startswith(b"\x89PNG") else "a.tif")
            path.write_bytes(content)
            told = {reader: forked_outcome(read, path, picture) for reader, read in READERS.items()}
            for reader, word in told.items():
                counts[reader][word] += 1
            print(f"| {name} | " + " | ".join(told.values()) + " |")
    for reader, found in counts.items():
        print(f"{reader}: " + ", ".join(f"{number} {word}" for word, number in found.items()))
    return int(counts["histofold"]["other"] + counts["histofold"]["memory"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
