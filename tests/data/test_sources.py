"""Several datasets in one experiment: what each fold trains on, and what is refused."""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from histofold.competitions.registry import get_competition
from histofold.core.faults import InputError
from histofold.core.rle.runs import encode_rle
from histofold.data.build import build_dataset
from histofold.data.leaks import image_stamp
from histofold.data.sources import JoinedTruth, joined_folds, joined_groups, joined_samples, load_sources
from histofold.data.store import known_folds
from histofold.schema.dataset import DataConfig, SourceConfig, TilesConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.train.fold import prepare_fold
from small_datasets import BASE, build, draw, make_folder, small_record

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three built datasets: main (6 images), extra (4), and full, which repeats two images of main."""
    folder = tmp_path_factory.mktemp("sources")
    main = {f"m{seed}": draw(seed) for seed in range(6)}
    full = {f"f{seed}": draw(200 + seed) for seed in range(3)}
    full["m1"] = draw(300)  # the id of another picture of main
    full["copy"] = main["m2"]
    turned = (np.rot90(main["m3"][0], 2), np.rot90(main["m3"][1], 2))
    full["turned"] = tuple(np.ascontiguousarray(part) for part in turned)
    folders = {"main": main, "extra": {f"e{seed}": draw(100 + seed) for seed in range(4)}, "full": full}
    for name, pictures in folders.items():
        build(make_folder(folder / f"raw_{name}", pictures), folder / name)
    return folder


def experiment_of(made, *sources, **data):
    return replace(BASE, data=DataConfig(dataset=str(made / "main"), sources=sources, **data))


def source(made, dataset, **settings):
    return SourceConfig(dataset=str(made / dataset), **settings)


def setup_of(experiment, made, fold=0, limit=None):
    return prepare_fold(experiment, "run", made / "runs", fold, limit)


def test_an_extra_source_is_in_every_training_and_in_no_validation(made):
    for fold in (0, 1):
        alone = setup_of(experiment_of(made), made, fold)
        both = setup_of(experiment_of(made, source(made, "extra", weight=3)), made, fold)
        assert [s.id for s in both.validation] == [s.id for s in alone.validation]
        own = both.index[both.index["dataset"] == "main"]
        assert own["tile_id"].tolist() == alone.index["tile_id"].tolist()
        extra = both.index[both.index["dataset"] == "extra"]
        assert set(extra["id"]) == {f"extra/e{number}" for number in range(4)}
        assert both.weights == {"main": 1.0, "extra": 3.0}
        assert set(both.trained_on) == set(own["id"]) | set(extra["id"])
        assert not {s.id for s in both.validation} & set(both.trained_on)
        assert [s.id for s in both.training] == list(dict.fromkeys(both.index["id"]))


def test_tiles_are_read_from_the_folder_of_their_source(made):
    from histofold.train.dataset import training_tiles
    from histofold.train.sampler import training_order

    experiment = experiment_of(made, source(made, "extra"))
    off = replace(experiment.augment, flip=0, rotate90=0, affine=0, sharpness=0, colour=0, hed=0)
    setup = setup_of(replace(experiment, augment=off), made)
    tiles = training_tiles(setup, keep=False)
    for place, row in enumerate(setup.index.to_dict("records")):
        name = row["id"].removeprefix("extra/")
        image_HWC = tiles.read(place)[0]
        raw = made / f"raw_{row['dataset']}" / "images" / f"{name}.png"
        expected = cv2.cvtColor(cv2.imread(str(raw)), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(image_HWC[6:58], expected)  # the rest is reflected, above and below
    drawn = [draw[0] for draw, _ in zip(training_order(setup, 0), range(len(setup.index)), strict=False)]
    counts = setup.index["dataset"].iloc[drawn].value_counts()
    assert abs(counts["main"] - counts["extra"]) <= 1


def test_a_source_with_folds_of_its_own_is_held_out_like_the_main_one(made):
    experiment = experiment_of(made, source(made, "extra", role="folds", name="second"))
    folds = pd.read_csv(made / "extra" / "folds.csv", dtype={"id": str})
    seen = set()
    for fold in (0, 1):
        setup = setup_of(experiment, made, fold)
        held_out = {f"second/{key}" for key in folds.loc[folds["fold"] == fold, "id"]}
        assert {s.id for s in setup.validation if "/" in s.id} == held_out
        assert not held_out & set(setup.index["id"])
        assert not {s.id for s in setup.validation} & set(setup.trained_on)
        seen |= held_out
        for sample in setup.validation:  # the truth of both is known
            assert setup.competition.target(sample).area > 0
    assert len(seen) == 4
    sources = load_sources(experiment)
    assert set(joined_folds(sources)["id"]) == set(joined_samples(sources)) >= seen


def test_patients_joined_by_folds_csv_or_by_the_tables_count_as_one(made):
    main, second = load_sources(experiment_of(made, source(made, "extra", role="folds", name="second")))
    own = {
        key: replace(sample, group="p" if key in ("m0", "m1") else sample.group) for key, sample in main.samples.items()
    }
    filed = {"m1": "q", "m2": "q", "m3": "m0", "m4": "", "m5": ""}
    main = replace(main, samples=own, folds=main.folds.assign(group=[filed.get(key, "") for key in main.folds["id"]]))
    groups = joined_groups([main, second])
    assert len({groups[key] for key in ("m0", "m1", "m2")}) == 1, "by the tables m0 and m1, by the file m1 and m2"
    assert len(set(groups.values())) == 1 + 3 + 4, "a file may use a group's name for another one, or name none"
    assert set(groups) == set(joined_samples([main, second]))


def test_the_joined_adapter_finds_the_truth_of_each_dataset(made):
    sources = load_sources(experiment_of(made, source(made, "extra", role="folds")))
    joined = JoinedTruth(sources)
    for key, sample in joined_samples(sources).items():
        name = "extra" if key.startswith("extra/") else "main"
        mask = cv2.imread(str(made / f"raw_{name}" / "masks" / f"{key.split('/')[-1]}.png"), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(joined.target(sample).to_mask(), mask > 0)
    assert joined.name == "folder"


def test_repeated_images_are_refused_with_every_id(made):
    with pytest.raises(InputError) as caught:
        load_sources(experiment_of(made, source(made, "full")))
    rules = {fault.id: fault.rule for fault in caught.value.faults}
    assert rules == {
        "full/m1": "has the id of m1",
        "full/copy": "has the file of m2",
        "full/turned": "shows the same tissue as m3",
    }
    assert all('duplicates = "drop"' in fault.remedy for fault in caught.value.faults)


def test_repeated_images_are_dropped_where_that_is_asked_for(made, caplog):
    experiment = experiment_of(made, source(made, "full", duplicates="drop"))
    setup = setup_of(experiment, made)
    assert {key for key in setup.index["id"] if "/" in key} == {"full/f0", "full/f1", "full/f2"}
    assert not {key for key in setup.trained_on if key.startswith("full/")} - set(setup.index["id"])
    assert "3 images that others have are left out" in caplog.text
    assert all(name in caplog.text for name in ("m1", "copy", "turned"))


def test_copies_between_two_extra_sources_are_found_too(made):
    with pytest.raises(InputError, match=r"twin/e0.*has the id of extra/e0"):
        load_sources(experiment_of(made, source(made, "extra"), source(made, "extra", name="twin")))


def test_sources_that_do_not_fit_are_refused(made, tmp_path):
    with pytest.raises(InputError, match="name is taken"):
        load_sources(experiment_of(made, source(made, "extra"), source(made, "full", name="extra")))
    other = replace(BASE, preprocessing=Preprocessing(scale_mode="whole", whole_size=96))
    build(made / "raw_extra", tmp_path / "larger", other)
    with pytest.raises(InputError, match="whole_size"):
        load_sources(experiment_of(made, SourceConfig(dataset=str(tmp_path / "larger"))))
    build(made / "raw_extra", tmp_path / "three", replace(BASE, tiles=TilesConfig(folds=3)))
    three = SourceConfig(dataset=str(tmp_path / "three"))
    with pytest.raises(InputError, match="its folds are 0, 1, 2 and those of the main dataset 0, 1"):
        load_sources(experiment_of(made, replace(three, role="folds")))
    assert len(load_sources(experiment_of(made, three))) == 2, "its folds do not matter where it is only trained on"
    with pytest.raises(InputError, match=r"no built dataset.*--out "):
        load_sources(experiment_of(made, SourceConfig(dataset=str(tmp_path / "nothing"))))
    for wrong in ({"weight": 0.0}, {"weight": float("nan")}):
        with pytest.raises(ValueError, match="weight"):
            source(made, "extra", **wrong)
        with pytest.raises(ValueError, match="weight"):
            experiment_of(made, **wrong)


def test_groups_of_one_name_in_two_sources_are_warned_of(made, tmp_path, caplog):
    for name, first in (("a", 400), ("b", 500)):
        pictures = {f"{name}{n}": draw(first + n) for n in range(4)}
        build(make_folder(tmp_path / f"raw_{name}", pictures, group=lambda key: f"patient{key[1]}"), tmp_path / name)
    data = DataConfig(dataset=str(tmp_path / "a"), sources=(SourceConfig(dataset=str(tmp_path / "b")),))
    load_sources(replace(BASE, data=data))
    assert "patient0, patient1, patient2, patient3 stand in b and in the main dataset" in caplog.text
    caplog.clear()
    sources = tuple(SourceConfig(dataset=str(tmp_path / name), role="folds") for name in ("a", "b"))
    load_sources(experiment_of(made, *sources))
    assert "patient0, patient1, patient2, patient3 stand in b and in the a dataset" in caplog.text
    caplog.clear()
    load_sources(experiment_of(made, *(replace(source, role="train") for source in sources)))
    assert "stand in" not in caplog.text, "nobody is scored on them"


def test_an_overfitting_check_is_of_the_main_dataset_alone(made):
    setup = setup_of(experiment_of(made, source(made, "extra")), made, limit=2)
    assert len(setup.validation) == 2
    assert set(setup.index["id"]) == {s.id for s in setup.validation}
    assert set(setup.weights) == {"main"}


def test_weights_and_sources_decide_whether_a_run_is_resumed(made):
    digests = [
        setup_of(experiment_of(made, *sources, **data), made).digest
        for sources, data in [
            ((), {}),
            ((source(made, "extra"),), {}),
            ((source(made, "extra", weight=2),), {}),
            ((source(made, "extra"),), {"weight": 2.0}),
            ((source(made, "extra", role="folds"),), {}),
        ]
    ]
    assert len(set(digests)) == len(digests)
    assert setup_of(experiment_of(made), made).digest == digests[0]


def test_a_hold_out_is_the_only_fold_to_train(made, tmp_path):
    held = build(made / "raw_main", tmp_path / "held", replace(BASE, tiles=TilesConfig(holdout=2)))
    experiment = replace(BASE, data=DataConfig(dataset=str(held)))
    assert known_folds(experiment) == [0]
    setup = setup_of(experiment, made)
    assert len(setup.validation) == 2
    assert len(set(setup.index["id"])) == 4
    with pytest.raises(InputError, match=r"known folds: 0$"):
        setup_of(experiment, made, fold=-1)
    assert pd.read_csv(held / "index.csv")["fold"].isin([0, -1]).all()


def test_a_published_full_set_is_read_as_a_plain_folder_and_gives_only_what_is_new(tmp_path):
    """The host's own table serves as images.csv and as rles.csv; its images have the competition's ids."""
    pictures = {str(100 + seed): draw(seed) for seed in range(6)}
    columns = {"data_source": "HPA", "pixel_size": "0.4", "tissue_thickness": "4", "age": "", "sex": ""}
    rows = [
        {"id": key, "organ": "lung", **columns, "img_height": 52, "img_width": 64, "rle": encode_rle(mask)}
        for key, (_, mask) in pictures.items()
    ]
    own = list(pictures)[:4]
    (tmp_path / "competition" / "train_images").mkdir(parents=True)
    (tmp_path / "full" / "images").mkdir(parents=True)
    for key, (image, _) in pictures.items():
        cv2.imwrite(str(tmp_path / "full" / "images" / f"{key}.png"), image)
        if key in own:
            cv2.imwrite(str(tmp_path / "competition" / "train_images" / f"{key}.tiff"), image)
    pd.DataFrame(rows[:4]).to_csv(tmp_path / "competition" / "train.csv", index=False)
    for name in ("images.csv", "rles.csv"):
        pd.DataFrame(rows).to_csv(tmp_path / "full" / name, index=False)
    build_dataset(tmp_path / "competition", get_competition("hubmap_2022"), BASE, tmp_path / "main", None, 1)
    build(tmp_path / "full", tmp_path / "extra")
    extra = SourceConfig(dataset=str(tmp_path / "extra"))
    with pytest.raises(InputError) as caught:
        load_sources(replace(BASE, data=DataConfig(dataset=str(tmp_path / "main"), sources=(extra,))))
    assert [fault.id for fault in caught.value.faults] == [f"extra/{key}" for key in own]
    data = DataConfig(dataset=str(tmp_path / "main"), sources=(replace(extra, duplicates="drop"),))
    main, full = load_sources(replace(BASE, data=data))
    assert list(full.samples) == list(full.folds["id"]) == list(pictures)[4:]
    assert set(full.index["id"]) == set(full.samples)
    for key, sample in full.samples.items():
        assert (sample.organ, sample.source, sample.pixel_size_um) == ("lung", "HPA", 0.4)
        np.testing.assert_array_equal(full.competition.target(sample).to_mask(), pictures[key][1])
    assert set(main.samples) == set(own)


def test_equal_names_in_plain_folders_neither_hide_nor_invent_what_was_seen(made, tmp_path):
    """A network of another folder, whose files have the names of these: both files of a name stay known."""
    pictures = {f"m{seed}": draw(600 + seed) for seed in range(6)}
    root = make_folder(tmp_path / "raw", pictures)
    stamps = {key: image_stamp(root / "images" / f"{key}.png") for key in pictures}
    run = write_run(tmp_path / "run", stamps)
    experiment = experiment_of(made)
    experiment = replace(experiment, model=replace(experiment.model, init=str(run)))
    setup = setup_of(experiment, made)
    assert set(stamps.values()) < set(setup.trained_on.values()), "what the earlier network saw, is seen"
    assert not {sample.id for sample in setup.validation} & set(setup.trained_on), "evaluation would refuse the run"
    own = setup_of(experiment_of(made), made).trained_on
    assert own.items() <= setup.trained_on.items()
    again = replace(experiment, model=replace(experiment.model, init=str(write_run(tmp_path / "same", own))))
    assert setup_of(again, made).trained_on == own


def write_run(run, trained_on):
    """A finished fold 0 of which only the record counts."""
    (run / "fold0").mkdir(parents=True)
    (run / "fold0" / "model.safetensors").write_bytes(b"weights")
    small_record(run / "fold0", 0, trained_on=trained_on)
    return run


def test_an_image_that_has_left_its_folder_is_still_written_down_as_seen(tmp_path):
    pictures = {f"m{seed}": draw(seed) for seed in range(4)}
    root = make_folder(tmp_path / "raw", pictures)
    build(root, tmp_path / "main")
    before = setup_of(experiment_of(tmp_path), tmp_path)
    gone = before.training[0].id
    for path in (root / "images" / f"{gone}.png", root / "masks" / f"{gone}.png"):
        path.unlink()
    (root / "images.csv").unlink()
    setup = setup_of(experiment_of(tmp_path), tmp_path)
    assert gone in set(setup.index["id"])
    assert setup.trained_on == {**before.trained_on, gone: ""}
