"""A plain folder is predicted in whatever formats it has: the same pixels give the same rows."""

import numpy as np
import tifffile
from PIL import Image

from histofold.predict.submission.shards import predict_folder


def test_a_bitmap_and_an_svs_get_the_rows_of_their_pixels(tmp_path, small_package):
    image_HWC = np.random.default_rng(0).integers(60, 220, (96, 130, 3), np.uint8)
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    tifffile.imwrite(images / "a.tif", image_HWC, photometric="rgb")
    Image.fromarray(image_HWC).save(images / "b.bmp")
    with tifffile.TiffWriter(images / "c.svs") as tiff:
        tiff.write(image_HWC, photometric="rgb", tile=(64, 64), metadata=None, description="Aperio Image Library v11")
        tiff.write(
            np.zeros((200, 300, 3), np.uint8), photometric="rgb", metadata=None, description="Aperio\nmacro 300x200"
        )
    summary = predict_folder(small_package, tmp_path / "data", tmp_path / "s.csv", None, "folder")
    assert summary.failed == {}
    rows = dict(line.split(",") for line in (tmp_path / "s.csv").read_text().splitlines()[1:])
    assert rows["a"]
    assert rows["a"] == rows["b"] == rows["c"]


def test_a_format_that_nobody_reads_is_a_fallback_row_with_the_reason(tmp_path, small_package):
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    (images / "a.czi").write_bytes(b"ZISRAWFILE")
    summary = predict_folder(small_package, tmp_path / "data", tmp_path / "s.csv", None, "folder")
    assert "OME-TIFF" in summary.failed["a"]
