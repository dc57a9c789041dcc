"""Published checkpoints, imported: the same logits as an independent copy of the published nets, and clear refusals."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from histofold.commands.main import main
from histofold.core.faults import InputError
from histofold.kaggle.published.settings import ImportSettings
from histofold.kaggle.published.weights import SHOWN_FAULTS, fold_weight_norm, read_published_state, to_our_state
from histofold.models.build import build_model
from histofold.predict.members import load_ensemble
from histofold.schema.manifest import load_manifest
from published_nets import NormalisedConv, PublishedEffUnet, PublishedUneXt50, randomised

IMAGES = (1, 3, 96, 160)


@pytest.fixture(scope="module")
def effunet():
    """A published EffUnet-b0 with random weights and statistics."""
    torch.manual_seed(0)
    return randomised(PublishedEffUnet())


@pytest.fixture(scope="module")
def published(effunet):
    return effunet.state_dict()


@pytest.fixture(scope="module")
def wanted():
    return build_model("effunet-b0", {"classes": 1}).state_dict()


def logits_of(model, images):
    with torch.inference_mode():
        return model.eval()(images)


@pytest.mark.parametrize(
    ("architecture", "net", "arguments"),
    [
        ("unext50", lambda: PublishedUneXt50(classes=2), {"classes": 2}),
        ("effunet-b0", PublishedEffUnet, {"classes": 1}),
        ("effunet-b2", lambda: PublishedEffUnet("efficientnet-b2"), {"classes": 1, "image_size": 256}),
    ],
)
def test_an_import_gives_the_published_logits(architecture, net, arguments, tmp_path):
    torch.manual_seed(1)
    theirs = randomised(net())
    torch.save(theirs.state_dict(), tmp_path / "published.pth")
    with torch.device("meta"):
        ours = build_model(architecture, arguments)
    state = read_published_state(tmp_path / "published.pth")
    ours.load_state_dict(to_our_state(state, ours.state_dict(), "published.pth", architecture), assign=True)
    images = torch.rand(*IMAGES)
    expected = logits_of(theirs, images)
    assert expected.std() > 0.1, "logits that are all alike would prove nothing"
    torch.testing.assert_close(logits_of(ours, images), expected, atol=1e-5, rtol=0)


def test_the_size_of_the_publication_matters():
    torch.manual_seed(2)
    theirs, images = randomised(PublishedEffUnet("efficientnet-b2")), torch.rand(*IMAGES)
    ours = build_model("effunet-b2", {"classes": 1})
    ours.load_state_dict(to_our_state(theirs.state_dict(), ours.state_dict(), "f", "effunet-b2"))
    assert (logits_of(ours, images) - logits_of(theirs, images)).abs().max() > 1e-4, "260 pads otherwise than 256"


def test_both_spellings_of_weight_norm_fold_exactly():
    torch.manual_seed(3)
    old, new = NormalisedConv(6, 8), weight_norm(nn.Conv2d(6, 8, 1))
    with torch.no_grad():
        new.parametrizations.weight.original0.mul_(1.7)
    features = torch.rand(2, 6, 3, 5)
    for conv in (old, new):
        folded = fold_weight_norm(conv.state_dict())
        assert sorted(folded) == ["bias", "weight"]
        plain = nn.Conv2d(6, 8, 1)
        plain.load_state_dict(folded)
        torch.testing.assert_close(plain(features), conv(features), atol=1e-6, rtol=0)
    lonely = {"shuf.weight_g": torch.ones(8, 1, 1, 1)}
    assert fold_weight_norm(lonely) == lonely


def test_a_plain_head_and_wrappers_and_half_floats_are_known(published, wanted, tmp_path):
    half = {k: t.half() if t.is_floating_point() else t for k, t in published.items()}
    half["final_conv.weight"], half["final_conv.bias"] = half.pop("final_conv.0.weight"), half.pop("final_conv.0.bias")
    file = tmp_path / "wrapped.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.model.{name}": tensor for name, tensor in half.items()}}, file)
    state = to_our_state(read_published_state(file), wanted, str(file), "effunet-b0")
    assert {name: tensor.dtype for name, tensor in state.items()} == {n: t.dtype for n, t in wanted.items()}
    assert torch.equal(state["head.weight"], published["final_conv.0.weight"].half().float())
    torch.save({"model": half, "opt": {"lr": 0.1}}, file)
    assert sorted(read_published_state(file)) == sorted(half)


def faults_of(state, wanted):
    with pytest.raises(InputError) as caught:
        to_our_state(state, wanted, "f.pth", "effunet-b0")
    return {fault.id: fault.rule for fault in caught.value.faults}


def test_everything_that_does_not_fit_is_told_at_once(published, wanted):
    state = dict(published)
    del state["dec4.bn.bias"]
    state["extra.weight"] = torch.ones(1)
    state["dec3.conv1.0.bias"] = torch.ones(129)
    state["dec2.conv1.0.bias"] = torch.full((64,), torch.nan)
    faults = faults_of(state, wanted)
    assert sorted(faults) == ["dec2.conv1.0.bias", "dec3.conv1.0.bias", "decoder.0.skip_norm.bias", "extra.weight"]
    assert "(129,)" in faults["dec3.conv1.0.bias"]
    assert "(128,)" in faults["dec3.conv1.0.bias"]
    assert "left over" in faults["extra.weight"]
    assert "not finite" in faults["dec2.conv1.0.bias"]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("mixupsample.mixing", "learns its upsampling"),
        ("fpn.convs.0.1.running_mean", "before its ReLU"),
        ("dec1.conv2.2.gamma", "self-attention"),
        ("cls.1.weight", "second head"),
        ("encoder._blocks.99._bn1.bias", "another encoder"),
    ],
)
def test_known_variants_are_named(published, wanted, name, word):
    faults = faults_of({**published, name: torch.ones(1)}, wanted)
    assert list(faults) == [name]
    assert word in faults[name]


def test_a_foreign_file_gets_twenty_lines_of_a_kind(wanted):
    faults = faults_of({f"layer{i}.weight": torch.ones(1) for i in range(50)}, wanted)
    assert len(faults) == 2 * SHOWN_FAULTS
    assert f"{50 - SHOWN_FAULTS + 1} more tensors" in faults
    assert f"{len(wanted) - SHOWN_FAULTS + 1} more tensors" in faults


class Payload:
    """An object that only a pickle that may run code can hold."""


@pytest.mark.parametrize("content", [Payload(), {"a": 1}, [torch.ones(1)], {}, {"model": {"epoch": 3}}])
def test_a_file_that_holds_no_named_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "f.pth")
    with pytest.raises(InputError, match="state_dict"):
        read_published_state(tmp_path / "f.pth")


def test_a_missing_and_a_broken_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_published_state(tmp_path / "none.pth")
    (tmp_path / "f.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="tensors alone"):
        read_published_state(tmp_path / "f.pth")


@pytest.mark.slow
def test_two_files_become_an_ensemble_that_loads_and_passes_the_check(effunet, tmp_path, capsys):
    files = [tmp_path / "fold 0.pth", tmp_path / "fold1.pth"]
    torch.save(effunet.state_dict(), files[0])
    other = {**effunet.state_dict(), "final_conv.0.bias": torch.tensor([0.25])}
    torch.save(other, files[1])
    out = tmp_path / "weights"
    options = ["--architecture", "effunet-b0", "--out", str(out), "--tile", "128", "--halo", "16", "--threshold", "0.4"]
    options += [
        "--pixel-size-um",
        "0.8",
        "--views",
        "identity",
        "hflip",
        "--licence",
        "CC-BY-4.0",
        "--classes",
        "gland",
    ]
    options += ["--normalise", "dataset", "--mean", "0.6", "0.5", "0.7", "--std", "0.2", "0.2", "0.1"]
    assert main(["package", "--import", *map(str, files), *options]) == 0
    manifest = load_manifest(out)
    assert [member.file for member in manifest.members] == ["fold_0.safetensors", "fold1.safetensors"]
    assert (manifest.tile, manifest.halo, manifest.thresholds) == (128, 16, {"default": 0.4})
    assert (manifest.views, manifest.classes) == (("identity", "hflip"), ("gland",))
    preprocessing = manifest.preprocessing
    assert (preprocessing.scale_mode, preprocessing.target_pixel_size_um) == ("physical", 0.8)
    assert (preprocessing.normalise, preprocessing.mean, preprocessing.std[2]) == ("dataset", (0.6, 0.5, 0.7), 0.1)
    assert json.loads((out / "dataset-metadata.json").read_text())["licenses"] == [{"name": "CC-BY-4.0"}]
    assert len(list(out.glob("segmentation_models_pytorch-*.whl"))) == 1
    assert main(["check", "weights", str(out)]) == 0
    (stage,) = load_ensemble([(out, manifest)], [torch.device("cpu")], torch.float32)
    images = torch.rand(*IMAGES)
    packaged = stage.networks[0].models[0]
    torch.testing.assert_close(logits_of(packaged, images), logits_of(effunet, images), atol=1e-5, rtol=0)
    assert torch.equal(load_file(out / "fold1.safetensors")["head.bias"], torch.tensor([0.25]))

    before = sorted(path.name for path in out.iterdir())
    capsys.readouterr()
    assert main(["package", "--import", str(files[0]), str(files[0]), *options]) == 2
    assert "rename one" in capsys.readouterr().err
    torch.save(effunet.state_dict(), tmp_path / "copy.pth")
    assert main(["package", "--import", str(files[0]), str(tmp_path / "copy.pth"), *options]) == 2
    assert "same weights" in capsys.readouterr().err
    assert main(["package", "--import", str(files[0]), *options, "--classes", "a", "b"]) == 2
    assert sorted(path.name for path in out.iterdir()) == before, "a refused import leaves the good package"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--import", "f.pth", "--normalise", "imagenet", "--mean", "0", "0", "0"], "normalise='dataset'"),
        (["--import", "f.pth", "--image-size", "512"], "effunet"),
        (["--import", "f.pth", "--tile", "100"], "multiple of 32"),
        (["--import", "f.pth", "--views", "sideways"], "unknown views"),
        (["--import", "f.pth", "--competition", "nothing"], "unknown competition"),
        (["runs/A", "--import", "f.pth"], "package them apart"),
        (["runs/A", "--tile", "256"], "add --import"),
        ([], "no run given"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, words, tmp_path, capsys):
    assert main(["package", *arguments, "--out", str(tmp_path / "w")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_whole_images_are_one_tile():
    whole = ImportSettings(whole_size=768).manifest()
    assert (whole.preprocessing.scale_mode, whole.tile, whole.halo) == ("whole", 768, 0)
    both = ImportSettings(whole_size=768, pixel_size_um=0.5).manifest()
    assert (both.preprocessing.scale_mode, both.preprocessing.whole_size, both.tile) == ("physical", 768, 512)
    assert ImportSettings(architecture="effunet-b5", image_size=512).arguments() == {"classes": 1, "image_size": 512}
