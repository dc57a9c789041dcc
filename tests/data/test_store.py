from dataclasses import replace

import pytest

from histofold.core.faults import InputError
from histofold.data.store import complete_preprocessing, load_dataset, tile_differences
from histofold.imaging.stain import fit_slide_reference
from histofold.schema.dataset import DataConfig
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
