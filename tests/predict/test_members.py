"""Members from files: loaded, joined, and each proved to be one of its own."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from histofold.core.faults import InputError
from histofold.predict import members as members_module
from histofold.predict.members import LoadedInTurn, load_joint
from histofold.schema.manifest import file_sha256, load_manifest, manifest_json
from histofold.schema.preprocessing import Preprocessing

CPU = [torch.device("cpu")]
TILES_NHWC = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)


def ensemble_at(package, **settings):
    """The single part of a package's ensemble."""
    (part,) = load_joint([(package, load_manifest(package))], CPU, torch.float32, **settings).parts
    return part.ensemble


def test_results_do_not_depend_on_the_neighbours_in_a_batch(small_package):
    net = ensemble_at(small_package)
    together = net(TILES_NHWC)
    alone = np.concatenate([net(TILES_NHWC[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_every_member_counts(small_package):
    net = ensemble_at(small_package)
    assert len({id(model) for model in net.models}) == 2
    both = net(TILES_NHWC)
    first = net.first_members(1)(TILES_NHWC)
    assert np.abs(both - first).max() > 1e-3


@pytest.fixture
def package(small_package, tmp_path):
    """A copy that may be broken."""
    manifest = load_manifest(small_package)
    for member in manifest.members:
        (tmp_path / member.file).write_bytes((small_package / member.file).read_bytes())
    return tmp_path, manifest


def rewritten(folder, manifest, place, tensors):
    """The manifest after a member's weights were replaced, its SHA-256 true."""
    path = folder / manifest.members[place].file
    save_file(tensors, path)
    members = list(manifest.members)
    members[place] = dataclasses.replace(members[place], sha256=file_sha256(path))
    changed = dataclasses.replace(manifest, members=tuple(members))
    (folder / "manifest.json").write_text(manifest_json(changed))
    return load_manifest(folder)


def test_members_that_say_the_same_are_refused_though_their_bytes_differ(package):
    folder, manifest = package
    tensors = load_file(folder / manifest.members[0].file)
    tensors["encoder.bn1.num_batches_tracked"] += 1
    with pytest.raises(InputError, match="gives the same output"):
        load_joint([(folder, rewritten(folder, manifest, 1, tensors))], CPU)


def test_weights_that_do_not_fit_are_refused(package):
    folder, manifest = package
    tensors = load_file(folder / manifest.members[0].file)
    tensors.pop("segmentation_head.0.bias")
    with pytest.raises(InputError, match="do not fit unet"):
        load_joint([(folder, rewritten(folder, manifest, 0, tensors))], CPU)


def test_a_member_in_another_precision_is_the_same_member(package):
    folder, manifest = package
    tensors = {name: t.clone() for name, t in load_file(folder / manifest.members[0].file).items()}
    tensors["decoder.blocks.0.conv1.0.weight"][0, 0, 0, 0] += 1e-9
    with pytest.raises(InputError, match="gives the same output"):
        load_joint([(folder, rewritten(folder, manifest, 1, tensors))], CPU)


def test_the_same_bytes_in_two_packages_are_refused(small_package):
    manifest = load_manifest(small_package)
    with pytest.raises(InputError, match="same bytes as") as refused:
        load_joint([(small_package, manifest), (small_package, manifest)], CPU)
    assert len(refused.value.faults) == 2


def test_members_loaded_in_turn_say_what_resident_ones_say(small_package):
    resident, turned = ensemble_at(small_package), ensemble_at(small_package, in_turn=True)
    assert isinstance(turned.models, LoadedInTurn)
    np.testing.assert_allclose(turned(TILES_NHWC), resident(TILES_NHWC), atol=1e-6)
    np.testing.assert_allclose(turned.first_members(1)(TILES_NHWC), resident.first_members(1)(TILES_NHWC), atol=1e-6)


def test_members_are_loaded_in_turn_where_memory_is_short(small_package, monkeypatch, caplog):
    size = sum(path.stat().st_size for path in small_package.glob("*.safetensors"))
    monkeypatch.setattr(members_module, "free_bytes", lambda device: 3.0 * size)
    assert isinstance(ensemble_at(small_package).models, list)
    monkeypatch.setattr(members_module, "free_bytes", lambda device: 1.0 * size)
    assert isinstance(ensemble_at(small_package).models, LoadedInTurn)
    assert "loaded one by one" in caplog.text


def test_one_at_a_time_means_one_at_a_time(small_package, monkeypatch):
    net = ensemble_at(small_package, in_turn=True)
    alive = []
    original = members_module.MemberFile.load

    def counted(self, device, into=None):
        model = original(self, device, into)
        alive.append(self.member.file)
        return model

    monkeypatch.setattr(members_module.MemberFile, "load", counted)
    net(TILES_NHWC)
    assert len(alive) == 2, "each member once for all views"
    first = net.first_members(1)
    first(TILES_NHWC)
    first.first_members(1)(TILES_NHWC)
    assert len(alive) == 3, "a part of the members asks the same holder"


def test_parts_of_an_ensemble_share_the_one_network_of_a_device(small_package):
    manifest = load_manifest(small_package)
    first, second = manifest.members
    own = Preprocessing(target_pixel_size_um=3.0)
    mixed = dataclasses.replace(manifest, members=(first, dataclasses.replace(second, preprocessing=own)))
    joint = load_joint([(small_package, mixed)], CPU, torch.float32, in_turn=True)
    networks = [part.ensemble.models[0] for part in joint.parts]
    assert networks[0] is networks[1], "of one kind, the second takes the module of the first"


def test_copies_on_several_devices_say_the_same(small_package):
    manifest = load_manifest(small_package)
    (part,) = load_joint([(small_package, manifest)], CPU * 2, torch.float32).parts
    assert len(part.ensemble.replicas) == 2
    first, second = (replica(TILES_NHWC) for replica in part.ensemble.replicas)
    np.testing.assert_array_equal(first, second)
    modules = [id(model) for replica in part.ensemble.replicas for model in replica.models]
    assert len(set(modules)) == 4


def test_members_of_another_preprocessing_see_the_image_their_own_way(small_package):
    manifest = load_manifest(small_package)
    own = Preprocessing(target_pixel_size_um=3.0)
    changed = (manifest.members[0], dataclasses.replace(manifest.members[1], preprocessing=own, weight=3.0))
    joint = load_joint([(small_package, dataclasses.replace(manifest, members=changed))], CPU)
    stages = joint.stages()
    assert [stage.manifest.preprocessing.target_pixel_size_um for stage in stages] == [1.6, 3.0]
    assert [stage.share for stage in stages] == [0.25, 0.75]
    assert (joint.members, joint.views) == (2, 2)
    assert [stage.passes(2, 2) for stage in stages] == [2, 2]
    assert [stage.passes(1, 2) for stage in stages] == [2, 0]
    assert len(joint.at_level(1, 1).stages()) == 1


def test_zoomed_views_are_stages_of_their_own(small_package):
    manifest = load_manifest(small_package)
    views = ("identity", "hflip@0.5", "vflip", "rot180@0.5", "identity@2")
    joint = load_joint([(small_package, dataclasses.replace(manifest, views=views))], CPU)
    stages = joint.stages()
    assert [stage.manifest.preprocessing.target_pixel_size_um for stage in stages] == [1.6, 3.2, 0.8]
    assert [stage.share for stage in stages] == pytest.approx([0.4, 0.4, 0.2])
    assert sum(stage.passes(2, 5) for stage in stages) == 10
    assert [stage.passes(2, 2) for stage in stages] == [2, 2, 0]
    forward, passes = stages[1].at_level(2, 1)
    assert passes == 2, "a stage that has begun keeps a view"
    assert forward.views == ("hflip@0.5",)
