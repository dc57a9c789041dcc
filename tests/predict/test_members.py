"""Members from files: loaded, joined, and each proved to be one of its own."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from histofold.core.faults import InputError
from histofold.predict import members as members_module
from histofold.predict.members import LoadedInTurn, load_ensemble
from histofold.predict.stages import Level, full_level, stages_at
from histofold.schema.manifest import file_sha256, load_manifest, manifest_json
from histofold.schema.preprocessing import Preprocessing
from small_stages import averaged

CPU = [torch.device("cpu")]
TILES_NHWC = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)


def ensemble_at(package, **settings):
    """The stages of a package."""
    return load_ensemble([(package, load_manifest(package))], CPU, torch.float32, **settings)


def test_results_do_not_depend_on_the_neighbours_in_a_batch(small_package):
    net = ensemble_at(small_package)
    together = averaged(net, TILES_NHWC)
    alone = np.concatenate([averaged(net, TILES_NHWC[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_every_member_counts(small_package):
    net = ensemble_at(small_package)
    both = averaged(net, TILES_NHWC)
    first = averaged(net, TILES_NHWC, Level(1, 2))
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
    next(tensor for name, tensor in tensors.items() if name.endswith("num_batches_tracked")).add_(1)
    with pytest.raises(InputError, match="gives the same output"):
        load_ensemble([(folder, rewritten(folder, manifest, 1, tensors))], CPU)


def test_weights_that_do_not_fit_are_refused(package):
    folder, manifest = package
    tensors = load_file(folder / manifest.members[0].file)
    tensors.pop("segmentation_head.0.bias")
    with pytest.raises(InputError, match="do not fit unet"):
        load_ensemble([(folder, rewritten(folder, manifest, 0, tensors))], CPU)


def test_a_member_in_another_precision_is_the_same_member(package):
    folder, manifest = package
    tensors = {name: t.clone() for name, t in load_file(folder / manifest.members[0].file).items()}
    weight = tensors["decoder.blocks.0.conv1.0.weight"][0, 0, 0]
    weight[0] = torch.nextafter(weight[0], torch.tensor(1.0))
    with pytest.raises(InputError, match="gives the same output"):
        load_ensemble([(folder, rewritten(folder, manifest, 1, tensors))], CPU)


def test_the_same_bytes_in_two_packages_are_refused(small_package):
    manifest = load_manifest(small_package)
    with pytest.raises(InputError, match="same bytes as") as refused:
        load_ensemble([(small_package, manifest), (small_package, manifest)], CPU)
    assert len(refused.value.faults) == 2


def test_members_loaded_in_turn_say_what_resident_ones_say(small_package):
    resident, turned = ensemble_at(small_package), ensemble_at(small_package, in_turn=True)
    assert isinstance(turned[0].networks[0].models, LoadedInTurn)
    for level in (Level(2, 2), Level(1, 2)):
        both = averaged(turned, TILES_NHWC, level), averaged(resident, TILES_NHWC, level)
        np.testing.assert_allclose(*both, atol=1e-6)


def test_members_are_loaded_in_turn_where_memory_is_short(small_package, monkeypatch, caplog):
    size = sum(path.stat().st_size for path in small_package.glob("*.safetensors"))
    for share, in_turn in ((3.0, False), (1.0, True)):
        monkeypatch.setattr(members_module, "free_bytes", lambda device, share=share: share * size)
        assert ensemble_at(small_package)[0].networks[0].in_turn == in_turn
    assert "loaded one by one" in caplog.text


def test_one_at_a_time_means_one_at_a_time(small_package, monkeypatch):
    net = ensemble_at(small_package, in_turn=True)
    loaded = []
    original = members_module.MemberFile.network

    def counted(self, into=None):
        loaded.append((self.member.file, into is None))
        return original(self, into)

    monkeypatch.setattr(members_module.MemberFile, "network", counted)
    averaged(net, TILES_NHWC)
    assert len(loaded) == 2, "each member once for all views"
    averaged(net, TILES_NHWC, Level(1, 2))
    averaged(net, TILES_NHWC, Level(1, 1))
    assert len(loaded) == 3, "the one that is there is not loaded again"
    assert [built for _, built in loaded] == [False] * 3, "of one kind, each takes the module of the one before"


def test_copies_on_several_devices_say_the_same(small_package):
    (stage,) = load_ensemble([(small_package, load_manifest(small_package))], CPU * 2, torch.float32)
    assert stage.threaded
    first, second = (each(TILES_NHWC, stage.passes, stage.manifest) for each in stage.networks)
    np.testing.assert_array_equal(first, second)
    assert len({id(model) for each in stage.networks for model in each.models}) == 4


def test_members_of_another_preprocessing_see_the_image_their_own_way(small_package):
    manifest = load_manifest(small_package)
    own = Preprocessing(target_pixel_size_um=3.0)
    changed = (manifest.members[0], dataclasses.replace(manifest.members[1], preprocessing=own, weight=3.0))
    stages = load_ensemble([(small_package, dataclasses.replace(manifest, members=changed))], CPU)
    assert [stage.manifest.preprocessing.target_pixel_size_um for stage in stages] == [1.6, 3.0]
    assert [stage.share for stage in stages] == [0.25, 0.75]
    assert full_level(stages) == Level(2, 2)
    assert [len(stage.passes) for stage in stages] == [2, 2]
    assert [len(stage.passes_at(Level(1, 2))) for stage in stages] == [2, 0]
    assert [stage.share for stage in stages_at(stages, Level(1, 1))] == [1.0]
