"""Tables that are at fault: everything wrong is named at once, and nothing is misread in silence."""

import logging
import zipfile

import numpy as np
import pytest

from histofold.competitions.base import find_image
from histofold.competitions.tables import (
    parse_pixel_size,
    read_names,
    read_table,
    rows_by_id,
    scan_host_table,
    scan_table,
    submission_ids,
    table_header,
)
from histofold.core.faults import InputError, InputNotice


@pytest.fixture
def table(tmp_path):
    def write(content):
        path = tmp_path / "t.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_text_stays_as_it_stands(table):
    read, _ = scan_host_table(table("\ufeffid,v\r\n007,nan\r\n1e3, NA \r\n\r\n'x',\"a,\nb\"\r\n"), ("id", "v"))
    assert read.to_dict("records") == [
        {"id": "007", "v": "nan"},
        {"id": "1e3", "v": " NA "},
        {"id": "'x'", "v": "a,\nb"},
    ]


def test_trailing_commas_do_not_shift_columns(table):
    read = read_table(table("id,organ\n1,lung,\n2,kidney,,\n3\n,,,\n"), ("id", "organ"))
    assert read["id"].tolist() == ["1", "2", "3"]
    assert read["organ"].tolist() == ["lung", "kidney", ""]


def test_every_fault_of_a_table_at_once_and_first_rows_kept(table):
    read, faults = scan_table(table("id,v,v\na,1,9\na,2\nb,3,9,surplus\n,5\na,6\n"), ("id", "v", "w"))
    assert read.to_dict("records") == [{"id": "a", "v": "1"}, {"id": "b", "v": "3"}]
    assert [(fault.id, fault.rule.split(" (")[0]) for fault in faults] == [
        ("w", "missing column"),
        ("v", "two columns of this name"),
        ("b", "line 4 has 4 fields and the header 3"),
        ("line 5", "row without an id"),
        ("a", "duplicate id"),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"id,v\n\xff\xfe,1\n", "not a csv"),
        (b"id,v\na\0,1\n", "NUL"),
        (b'id,v\na,"never closed\nb,1\n', "not a csv"),
    ],
)
def test_what_is_no_table_is_refused_in_words(table, content, words):
    with pytest.raises(InputError, match=words) as caught:
        scan_table(table(content), ("id",))
    assert len(caught.value.faults) == 1


def test_fields_of_many_megabytes(table):
    text = "1 2 " * 999_999 + "1 2"
    assert read_table(table(f"id,rle\na,{text}\n"), ("id", "rle"))["rle"][0] == text


def test_rows_by_id_of_tables_that_are_absent_or_have_no_ids(table, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="histofold"):
        assert rows_by_id(tmp_path / "absent.csv", ("id",)) == {}
        assert rows_by_id(table("key,v\n1,2\n"), ("id", "w")) == {}
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["absent", "id", "w"]


def test_repeated_ids_to_predict_are_kept_once_and_logged(table, caplog):
    with caplog.at_level(logging.WARNING, logger="histofold"):
        assert submission_ids(table("id,rle\nb,\na,\nb,\n"), ("id", "rle")) == ["b", "a"]
    assert "duplicate id" in caplog.text
    with pytest.raises(InputError, match=r"rle.*missing column"):
        submission_ids(table("id\nb\n"), ("id", "rle"))


@pytest.mark.parametrize("suffix", [".tiff", ".TIF", ".PNG", ".Png", ".jpg", ".JPEG"])
def test_suffixes_of_either_case_are_found(tmp_path, suffix):
    (tmp_path / f"a.b{suffix}").write_bytes(np.zeros(1).tobytes())
    assert find_image(tmp_path, "a.b").name.lower() == f"a.b{suffix}".lower()


def test_a_name_that_no_file_can_have_is_not_found(tmp_path):
    assert not find_image(tmp_path, "short").exists()
    assert find_image(tmp_path, "x" * 5000).suffix == ".tiff"


ROWS = [{"id": "é1", "organ": "lung", "pixel_size": "0,5"}, {"id": "2", "organ": "", "pixel_size": "0.25"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_is_read_whatever_program_saved_it(table, encoding, separator, end):
    """Separator, encoding, line ends, blanks in headers and cells; text in quotes parts nothing."""
    lines = ["id, Organ ,pixel size", "é1 , lung,0@5", "2,,0.25 "]
    text = end.join(line.replace(",", separator) for line in lines).replace("0@5", '"0,5"') + end
    content = text.encode(encoding)
    content = b"\xff\xfe" + content if encoding == "utf-16-le" else content
    read, faults = scan_table(table(content), ("id", "organ"), ("pixel_size",))
    assert read.to_dict("records") == ROWS
    assert [type(fault) for fault in faults] == [InputNotice]
    assert "'Organ' as 'organ', 'pixel size' as 'pixel_size'" in faults[0].rule
    assert [parse_pixel_size(size) for size in read["pixel_size"]] == [0.5, 0.25]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_line_that_names_the_separator_is_no_header(table, separator):
    read = read_table(table(f"sep={separator}\nid{separator}v\na{separator}1\n"), ("id", "v"))
    assert read.to_dict("records") == [{"id": "a", "v": "1"}]


def test_a_header_in_quotes_parts_at_what_stands_outside_of_them(table):
    assert table_header(table('id,"a;b;c;d"\n')) == ["id", "a;b;c;d"]
    assert table_header(table('"id";"size, um"\n')) == ["id", "size, um"]
    assert table_header(table("id\n")) == ["id"]


@pytest.mark.parametrize("content", ["id,patient\né,1\n".encode("cp1252"), "id,v\na,1\n".encode("utf-16-le")])
def test_other_encodings_are_refused_with_the_remedy(table, content):
    with pytest.raises(InputError, match="save it as CSV UTF-8"):
        read_table(table(content), ("id",))


def test_a_host_s_table_keeps_its_blanks(table):
    assert submission_ids(table("id,rle\n a ,\nb,\n"), ("id", "rle")) == [" a ", "b"]


@pytest.mark.parametrize("key", ["../../x", "/abs", "a\\b", "..", "a/../b", "a//b", "a\tb"])
def test_ids_that_leave_their_folder_are_refused_where_they_are_read(table, key):
    path = table(f'id,rle\n"{key}",\nok,\n')
    assert [fault.id for fault in scan_table(path, ("id", "rle"))[1]] == [key]
    with pytest.raises(InputError, match="may lead out of its folder"):
        read_table(path, ("id",))
    assert submission_ids(path, ("id", "rle")) == [key, "ok"], "a host's id gets its row, the fallback one"


def test_an_image_beyond_the_folder_is_not_found(tmp_path):
    (tmp_path / "test_images").mkdir()
    (tmp_path / "secret.tiff").write_bytes(b"x")
    assert not find_image(tmp_path / "test_images", "../secret").exists()
    assert not find_image(tmp_path / "test_images", str(tmp_path / "secret")).exists()


def test_names_of_a_text_file(tmp_path):
    path = tmp_path / "classes.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(" vessel\r\n\r\nglomérule \n", encoding=encoding)
        assert read_names(path) == ("vessel", "glomérule")
    path.write_bytes("glomérule\n".encode("cp1252"))
    with pytest.raises(InputError, match="save it as UTF-8"):
        read_names(path)


def test_a_workbook_under_the_name_of_a_table_is_named_as_such(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.csv", "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
    with pytest.raises(InputError, match="a spreadsheet's workbook and no csv table"):
        scan_table(tmp_path / "t.csv", ["id"])
