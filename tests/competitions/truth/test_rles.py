"""Run lengths as other programs write them: refused with what mends them, or noticed."""

import cv2
import numpy as np
import pytest

from histofold.competitions.folder import Folder
from histofold.core.rle.runs import encode_rle

SHAPE = (20, 33)


def rles_folder(root, text):
    (root / "images").mkdir()
    cv2.imwrite(str(root / "images" / "a.png"), np.full((*SHAPE, 3), 150, np.uint8))
    (root / "rles.csv").write_text(f'id,rle\na,"{text}"\n')
    competition = Folder()
    _, faults = competition.inspect(root, "train")
    return faults, [notice.rule for notice in competition.notices]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("-1", "leave the cell empty"),
        ("[3, 5, 9, 2]", "part the numbers by blanks"),
        ("3,5,9,2", "part the numbers by blanks"),
        ("0n0k1S4001O", "COCO's compressed counts"),
        ("0 5 9 2", "add 1 to every start"),
        ("3.0 5.0", "in whole numbers"),
        ("3 7 9 12", "start and length of each run"),
        ("0.5 2", "in whole numbers"),
    ],
)
def test_run_lengths_of_another_kind_are_refused_with_what_mends_them(tmp_path, text, remedy):
    (fault,), _ = rles_folder(tmp_path, text)
    assert remedy in fault.remedy


@pytest.mark.parametrize(("first", "count"), [(1, 0), (0, 1)])
def test_positions_from_zero_are_noticed_where_labels_touch_the_upper_edge(tmp_path, first, count):
    mask_HW = np.zeros(SHAPE, bool)
    mask_HW[:7, 4:22] = mask_HW[3, 2:30] = True
    pairs = np.array(encode_rle(mask_HW).split(), int).reshape(-1, 2) - (1 - first, 0)
    faults, notices = rles_folder(tmp_path, " ".join(map(str, pairs.ravel())))
    assert faults == []
    assert (
        notices == ["18 runs begin with the last pixel of a column and go on in the next, and 0 with the first"] * count
    )
