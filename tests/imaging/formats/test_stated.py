"""What a file says of itself beside its pixels."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from histofold.imaging.formats.stated import is_turned

PICTURE = np.zeros((6, 9, 3), np.uint8)


@pytest.mark.parametrize(("orientation", "turned"), [(None, False), (1, False), (3, True), (6, True)])
def test_an_orientation_by_which_viewers_turn(tmp_path, orientation, turned):
    exif = Image.Exif()
    tags = []
    if orientation is not None:
        exif[0x0112] = orientation
        tags = [(274, "H", 1, orientation, True)]
    Image.fromarray(PICTURE).save(tmp_path / "a.jpg", exif=exif)
    tifffile.imwrite(tmp_path / "a.tif", PICTURE, photometric="rgb", extratags=tags)
    assert is_turned(tmp_path / "a.jpg") == is_turned(tmp_path / "a.tif") == turned


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"II*\0\xff\xff\xff\xff", b"\x89PNG"])
def test_a_broken_file_states_no_orientation(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert not is_turned(tmp_path / "a")
    assert not is_turned(tmp_path / "absent")
