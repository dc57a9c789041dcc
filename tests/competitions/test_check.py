"""Submissions that a spreadsheet opened and saved."""

import pytest

from histofold.competitions.check import check_submission
from histofold.core.faults import InputError


def rules(path, text):
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        check_submission(path)
    return {fault.id: fault.rule for fault in caught.value.faults}


def test_rows_that_were_cut_off_are_named(tmp_path):
    whole = " ".join(f"{10 * number + 10} 3" for number in range(5000))
    assert len(whole) > 33_000
    text = f"id,rle\na,{whole[:32_767]}\nb,1 2\n"
    assert rules(tmp_path / "s.csv", text) == {"a": "the rle ends after 32,767 characters: it was cut off"}


@pytest.mark.parametrize("text", ["id;rle\na;1 2\n", "id,rle,\na,1 2,\n", "id,rle,rle\na,1 2,1 2\n", "Id,rle\na,1 2\n"])
def test_columns_must_be_the_host_s(tmp_path, text):
    assert rules(tmp_path / "s.csv", text)
