from pathlib import PurePosixPath

from histofold.competitions.truth.names import ImageNames, listed_files


def test_ids_are_names_and_paths_where_a_name_stands_twice(tmp_path):
    for name in ("one/a.png", "two/a.png", "two/b.PNG", "c.png", ".hidden/d.png", "two/.e.png", "two/f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(listed_files(tmp_path, (".png",))) == ["one/a", "two/a", "b", "c"]


def test_two_suffixes_of_one_path_are_one_id(tmp_path):
    for name in ("a.png", "a.ome.tif"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in listed_files(tmp_path, (".png", ".tif"))["a"]] == ["a.png", "a.ome.tif"]


def test_a_name_that_several_images_have_means_none():
    names = ImageNames(
        {"one/a": PurePosixPath("one/a.png"), "two/a": PurePosixPath("two/a.tif"), "b.c": PurePosixPath("b.c.png")}
    )
    assert [names.id_of(name) for name in ("a", "two/a.png", "x/two/a", "b.c", "b.c.tif", "q", "", ".")] == [
        *(None, "two/a", "two/a", "b.c", "b.c", None, None, None),
    ]
