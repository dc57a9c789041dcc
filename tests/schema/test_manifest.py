import dataclasses
import json

import pytest

from histofold.core.faults import InputError
from histofold.schema.manifest import Manifest, Member, file_sha256, load_manifest, look_up_threshold, manifest_json
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.volumes import VolumeConfig


@pytest.fixture
def package(tmp_path):
    members = []
    for fold in range(2):
        path = tmp_path / f"fold{fold}.safetensors"
        path.write_bytes(bytes([fold]) * 100)
        members.append(Member(file=path.name, sha256=file_sha256(path), architecture="unet", fold=fold))
    manifest = Manifest(competition="hubmap_2022", preprocessing=Preprocessing(), members=tuple(members))
    (tmp_path / "manifest.json").write_text(manifest_json(manifest))
    return tmp_path, manifest


def test_round_trip(package):
    folder, manifest = package
    assert load_manifest(folder) == manifest


def test_a_flipped_byte_is_found(package):
    folder, _ = package
    path = folder / "fold1.safetensors"
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"fold1.*SHA-256"):
        load_manifest(folder)


def test_all_faults_of_files_at_once(package):
    folder, _ = package
    (folder / "fold0.safetensors").unlink()
    (folder / "fold1.safetensors").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        load_manifest(folder)
    assert len(caught.value.faults) == 2


def test_the_same_checkpoint_twice_is_no_ensemble(package):
    folder, manifest = package
    twice = dataclasses.replace(manifest, members=(manifest.members[0], manifest.members[0]))
    (folder / "manifest.json").write_text(manifest_json(twice))
    with pytest.raises(InputError, match="twice"):
        load_manifest(folder)


def test_thresholds_fall_back_from_source_to_organ_to_default():
    thresholds = {"default": 0.5, "lung": 0.3, "lung/HPA": 0.2}
    assert look_up_threshold(thresholds, "lung", "HPA") == 0.2
    assert look_up_threshold(thresholds, "lung", "Hubmap") == 0.3
    assert look_up_threshold(thresholds, "heart", "HPA") == 0.5
    assert look_up_threshold(thresholds, "", "") == 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"thresholds": {"kidney": 0.5}}, "default"),
        ({"thresholds": {"default": 1.5}}, "between 0 and 1"),
        ({"format": "other/1"}, "format"),
        ({"tile": 100}, "multiple of 32"),
        ({"views": []}, "not be empty"),
        ({"views": ["flip"]}, "known are identity"),
        ({"stride": 999}, "stride=999"),
        ({"surprise": 1}, "unknown key"),
        ({"smooth_um": 4.0}, "smoothing by discs gained nothing"),
        ({"members": []}, "no members"),
        ({"preprocessing": {"slices": 5}}, "does not see the 5 channels"),
        ({"members": [{"file": "../up", "sha256": "", "architecture": "unet"}]}, "plain name"),
    ],
)
def test_bad_manifests_are_refused(package, change, words):
    folder, _ = package
    data = json.loads((folder / "manifest.json").read_text()) | change
    (folder / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=words):
        load_manifest(folder)


def test_networks_of_an_ensemble_see_as_many_slices_as_they_are_given_and_pictures_have_none():
    five = Member(
        file="a", sha256="0", architecture="unet", arguments={"slices": 5}, preprocessing=Preprocessing(slices=5)
    )
    three = Member(file="b", sha256="1", architecture="unet")
    Manifest(competition="sennet_2024", preprocessing=Preprocessing(), members=(five, three), volume=VolumeConfig())
    with pytest.raises(ValueError, match="b does not see the 5 channels of its preprocessing"):
        Manifest(competition="sennet_2024", preprocessing=Preprocessing(slices=5), members=(five, three))
    with pytest.raises(ValueError, match="slices=5 of pictures"):
        Manifest(competition="hubmap_2022", preprocessing=Preprocessing(slices=5), members=(five,))
