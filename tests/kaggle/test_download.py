"""A competition fetched with the real client from a site on this machine, unpacked safely, and gone on with."""

import io
import stat
import zipfile

import pytest

from half_written import leave_half_written
from histofold.commands.main import main
from histofold.core.faults import InputError
from histofold.kaggle import download
from histofold.kaggle.download import unpack
from loopback import client_in_process, loopback

SLUG = "hubmap-organ-segmentation"
FILES = {
    "train.csv": b"id,organ,data_source,img_height,img_width,pixel_size,tissue_thickness,rle\n",
    "sample_submission.csv": b"id,rle\n",
    "test.csv": b"id,organ\n",
    "train_images/1.tiff": bytes(range(256)) * 300,
}


def archive_of(files, links=()):
    """The bytes of an archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFLNK if name in links else stat.S_IFREG) << 16
            archive.writestr(entry, text)
    return content.getvalue()


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Kaggle on this machine, with the archive, and the real client in this process."""
    monkeypatch.chdir(tmp_path)
    with loopback(tmp_path / "server") as (fake, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(download, "run_process", client_in_process)
        fake.output = {f"{SLUG}.zip": archive_of(FILES)}
        yield fake


def test_the_real_client_fetches_and_the_folder_is_what_the_archive_holds(site, tmp_path, capsys):
    assert main(["download", "hubmap_2022"]) == 0
    out = tmp_path / "raw" / "hubmap_2022"
    assert contents(out) == FILES
    assert "raw/hubmap_2022" in capsys.readouterr().out
    asked = site.count("DownloadDataFiles")
    assert asked == 1
    assert main(["download", "hubmap_2022"]) == 0, "what is whole is left as it is"
    assert site.count("DownloadDataFiles") == asked


def test_rules_that_are_not_accepted_and_other_refusals_are_said_clearly(site, tmp_path, capsys):
    site.refusals = {"DownloadDataFiles": [403]}
    assert main(["download", "hubmap_2022"]) == 2
    assert f"accept the rules at https://www.kaggle.com/c/{SLUG}/rules" in capsys.readouterr().err
    site.refusals = {"DownloadDataFiles": [404]}
    assert main(["download", "hubmap_2022"]) == 2
    assert "there is nothing of this name" in capsys.readouterr().err
    assert main(["download", "hubmap_2022"]) == 0, "and then it goes on"
    assert main(["download", "folder"]) == 2
    assert "no competition of Kaggle's" in capsys.readouterr().err


def test_a_folder_of_other_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    assert main(["download", "hubmap_2022", "--out", str(tmp_path / "mine")]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert contents(tmp_path / "mine") == {"a.txt": b"mine"}


def test_unpacking_goes_on_and_keeps_what_is_whole(tmp_path):
    archive, out = tmp_path / "a.zip", tmp_path / "out"
    archive.write_bytes(archive_of(FILES))
    unpack(archive, out)
    kept = (out / "train.csv").stat().st_mtime_ns
    (out / "train_images" / "1.tiff").unlink()
    leave_half_written(out / "train_images" / "1.tiff")
    unpack(archive, out)
    assert contents(out) == FILES
    assert (out / "train.csv").stat().st_mtime_ns == kept
    (out / "train.csv").write_bytes(b"other")
    with pytest.raises(InputError, match=r"train.csv: another file lies here; move it"):
        unpack(archive, out)


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/x", "C:/x", "..\\x", "train_images/link"],
    ids=lambda name: name.replace("/", "_"),
)
def test_names_that_leave_the_folder_and_links_are_refused_before_anything_is_written(tmp_path, name):
    archive, out = tmp_path / "a.zip", tmp_path / "deep" / "out"
    archive.write_bytes(archive_of({"train.csv": b"x", name: b"evil"}, links=["train_images/link"]))
    with pytest.raises(InputError, match=r"leave the folder|a link"):
        unpack(archive, out)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("damage", [lambda b: b[:40], lambda b: b"", lambda b: b[:60] + bytes(40) + b[100:]])
def test_a_broken_archive_leaves_no_half_of_a_file(tmp_path, damage):
    archive, out = tmp_path / "a.zip", tmp_path / "out"
    archive.write_bytes(damage(archive_of({"train_images/1.tiff": FILES["train_images/1.tiff"]})))
    with pytest.raises(InputError, match="a broken archive"):
        unpack(archive, out)
    assert not out.exists() or contents(out) == {}
