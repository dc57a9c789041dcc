from dataclasses import replace

import pytest

from histofold.commands.main import main
from histofold.core.faults import InputError
from histofold.data.store import (
    check_experiment,
    complete_preprocessing,
    known_folds,
    load_dataset,
    tile_differences,
)
from histofold.data.tiles.files import refuse_cut_tiles, tile_paths
from histofold.imaging.stain import fit_slide_reference
from histofold.schema.dataset import DataConfig
from histofold.schema.parse import to_toml
from small_datasets import BASE, build, draw, make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("own"), {f"p{n}": draw(n) for n in range(4)})


def test_tiles_cut_with_other_labels_are_refused(folder, tmp_path):
    out = build(folder, tmp_path / "tiles")
    info = load_dataset(out)[0]
    wanted = replace(BASE, data=DataConfig(dataset=str(out), clean_blank=True))
    with pytest.raises(InputError, match=r"clean_blank.*cut with False"):
        complete_preprocessing(wanted, info, out)


def test_stain_references_are_measured_with_the_dataset(folder, tmp_path):
    asked = replace(BASE, data=DataConfig(stain_references=("p1", "p3")))
    info = load_dataset(build(folder, tmp_path / "tiles", asked))[0]
    assert info.stain_reference.images == ("p1", "p3")
    wanted = replace(BASE, preprocessing=replace(BASE.preprocessing, stain="reinhard"))
    completed = complete_preprocessing(wanted, info, tmp_path)
    assert completed.stain_reference == info.stain_reference
    completed.check_stain()


def test_normalisation_without_a_reference_is_refused_with_the_remedy(folder, tmp_path):
    info = load_dataset(build(folder, tmp_path / "tiles"))[0]
    assert info.stain_reference == fit_slide_reference([], BASE.preprocessing)
    wanted = replace(BASE, preprocessing=replace(BASE.preprocessing, stain="macenko"))
    with pytest.raises(InputError, match=r"data\.stain_references"):
        complete_preprocessing(wanted, info, tmp_path)


def test_a_dataset_of_another_folder_or_other_files_are_not_built_over(folder, tmp_path, capsys):
    other = make_folder(tmp_path / "other", {f"q{n}": draw(10 + n) for n in range(4)})
    out = build(folder, tmp_path / "tiles")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (tmp_path / "e.toml").write_text(to_toml(BASE))

    def command(data, target, *more):
        options = ["--experiment", str(tmp_path / "e.toml"), "--workers", "1", *more]
        return main(["build", "--data", str(data), "--out", str(target), *options])

    assert command(other, out) == 2
    assert f"holds the dataset of another folder, {folder}; give another --out, or add --overwrite" in (
        capsys.readouterr().err
    )
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert command(folder, out) == 0, "its own folder is built again"
    assert command(other, out, "--overwrite") == 0
    assert set(load_dataset(out)[1]["id"]) == {f"q{n}" for n in range(4)}
    assert not list((out / "images").glob("p*"))
    assert command(other, other) == 2
    assert command(other, other, "--overwrite") == 2
    assert "is the competition folder itself" in capsys.readouterr().err
    (tmp_path / "mine" / "images").mkdir(parents=True)
    assert command(other, tmp_path / "mine") == 2
    assert "holds images, and no dataset of ours" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dataset.json", "index.csv", "folds.csv"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.97])
def test_tables_that_were_cut_short_are_refused_by_name_and_built_anew(folder, tmp_path, name, share):
    out = build(folder, tmp_path / "tiles")
    path = out / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=rf"{name}: .+; .*build"):
        load_dataset(out)
    if name == "folds.csv":
        path.unlink()
    build(folder, out)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(("part", "size"), [("images", -1), ("masks", -1), ("masks", 0)])
def test_a_tile_that_was_cut_short_is_seen_before_training_and_cut_again(folder, tmp_path, part, size):
    out = build(folder, tmp_path / "tiles")
    index = load_dataset(out)[1]
    tiles = [(str(out), key) for key in index["tile_id"]]
    refuse_cut_tiles(tiles)
    path = next(path for path in tile_paths(out, index["tile_id"][1]) if path.parent.name == part)
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with pytest.raises(InputError, match=rf"1 tiles are missing or cut short, the first is {index['tile_id'][1]}"):
        refuse_cut_tiles(tiles)
    build(folder, out)
    assert path.read_bytes() == whole


def test_an_unknown_reference_is_named(folder, tmp_path):
    asked = replace(BASE, data=DataConfig(stain_references=("p1", "nobody")))
    with pytest.raises(InputError, match="nobody"):
        build(folder, tmp_path / "tiles", asked)
    assert not (tmp_path / "tiles").exists()


def test_tiles_that_were_cut_otherwise_are_named_but_not_the_folds(folder, tmp_path):
    dataset = build(folder, tmp_path / "tiles")
    assert tile_differences(BASE, dataset) == []
    redrawn = replace(BASE, tiles=replace(BASE.tiles, folds=7, fold_by="image", holdout=0))
    assert tile_differences(redrawn, dataset) == []
    wanted = replace(BASE, tiles=replace(BASE.tiles, size=BASE.tiles.size + 32, keep_background=0.5))
    remarks = tile_differences(wanted, dataset)
    assert [remark.id for remark in remarks] == ["tiles.size", "tiles.keep_background"]
    assert f"cut with {BASE.tiles.size}" in str(remarks[0])
    assert f"says {BASE.tiles.size + 32}" in str(remarks[0])


def test_files_of_weights_that_are_not_there_are_seen_with_the_dataset_and_the_fold(folder, tmp_path):
    experiment = replace(BASE, data=DataConfig(dataset=str(build(folder, tmp_path / "tiles"))))
    assert check_experiment(experiment, 1) == known_folds(experiment) == [0, 1]
    model = replace(BASE.model, encoder_weights="file:no/where.pth", init="file:nothing.safetensors")
    with pytest.raises(InputError) as caught:
        check_experiment(replace(experiment, model=model), 7)
    assert [fault.id for fault in caught.value.faults] == ["fold 7", "model.encoder_weights", "model.init"]
    assert "no/where.pth: no such file" in str(caught.value)
