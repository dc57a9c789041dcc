"""Files of strangers: nothing in them runs, nothing leads out of its folder, and no request leaves the machine."""

import json
import os
import pickle
import shutil
import zipfile
from dataclasses import replace
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from histofold.commands.main import VERBS, main
from histofold.core.faults import InputError
from histofold.kaggle.download import unpack
from histofold.kaggle.published.weights import read_published_state
from histofold.kaggle.simulate.alone import refuse_network
from histofold.models.build import build_model
from histofold.models.instances.build import build_detector, build_network
from histofold.models.weights import load_encoder_weights
from histofold.predict.members import MemberFile
from histofold.schema.manifest import load_manifest
from histofold.schema.network import Architecture, ModelConfig
from histofold.schema.parse import to_toml
from histofold.train.checkpoint import newest_state
from histofold.train.warm_start import load_initial_weights
from small_datasets import SMALL_UNET, draw, make_folder
from small_runs import TinyNet, small_experiment

pytestmark = pytest.mark.slow


class Payload:
    """Makes a folder where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def as_encoder(path):
    config = ModelConfig(**SMALL_UNET, encoder_weights=f"file:{path}")
    load_encoder_weights(build_model("unet", config.arguments()), config)


def as_state(path):
    path.rename(path.with_name("state_0000001.pt"))
    assert newest_state(path.parent) is None
    raise InputError("it counts as no state")


def as_member(path):
    manifest = load_manifest(path.parent / "package")
    member = replace(manifest.members[0], file=path.name)
    MemberFile(path.parent, manifest, member).load(torch.device("cpu"))


def as_download(path):
    """What lies in torchvision's cache; the file's end stays what it is there."""
    config = ModelConfig(architecture="deeplabv3_resnet101", encoder_weights="voc")
    cache = path.parent / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    path.rename(cache / "deeplabv3_resnet101_coco-586e9e4e.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(path.parent))
        load_encoder_weights(TinyNet(), config)


READERS = {
    "download": as_download,
    "encoder_weights": as_encoder,
    "package --import": read_published_state,
    "state of a run": as_state,
    "model.init": lambda path: load_initial_weights(TinyNet(), path),
    "member": as_member,
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("wrap", ["torch", "old torch", "pickle"])
@pytest.mark.parametrize("reader", READERS)
def test_nothing_in_a_file_of_weights_runs(tmp_path, monkeypatch, small_package, reader, wrap, suffix):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, mark = tmp_path / f"weights{suffix}", tmp_path / "it_ran"
    shutil.copytree(small_package, tmp_path / "package")
    content = {"model": {"a.weight": torch.zeros(2)}, "epoch": Payload(mark)}
    if wrap == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=wrap == "torch")
    with pytest.raises(InputError):
        READERS[reader](path)
    assert not mark.exists()


def test_the_payload_would_run(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "it_ran")))
    assert (tmp_path / "it_ran").is_dir()


ELSEWHERE = (
    "tu-hf-hub:someone/net",
    "tu-hf_hub:someone/net",
    "tu-local-dir:/etc",
    "tu-../../net",
    "/etc/net",
    "a\0b",
    5,
)


@pytest.mark.parametrize("encoder", ELSEWHERE, ids=repr)
def test_a_manifest_cannot_send_us_to_the_internet_or_about_the_disk_for_an_encoder(monkeypatch, encoder):
    monkeypatch.setattr("socket.getaddrinfo", refuse_network)
    for build, architecture in ((build_model, "unet"), (build_detector, "maskrcnn")):
        with pytest.raises(InputError, match="is no name: give letters"):
            build(architecture, {"encoder": encoder})
    if isinstance(encoder, str):
        with pytest.raises(ValueError, match="is no name"):
            ModelConfig(encoder=encoder)


NONSENSE = (
    {"classes": "3", "activation": "softmax"},
    {"classes": [1]},
    {"classes": -1},
    {"classes": 10**30},
    {"decoder_channels": 5},
    {"decoder_channels": ["a"] * 5},
    {"encoder_weights": "imagenet"},
    {"encoder": "no_such_net"},
)


@pytest.mark.parametrize("arguments", NONSENSE, ids=repr)
def test_arguments_that_are_none_of_a_network_are_refused_in_words(arguments):
    with pytest.raises(InputError, match="cannot be built with"):
        build_model("unet", {**SMALL_UNET, **arguments})


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "no\0name", "", "."])
def test_a_member_outside_of_its_folder_is_refused(small_package, tmp_path, name):
    data = json.loads((small_package / "manifest.json").read_text())
    data["members"][0]["file"] = name
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"must be a plain name|no such file beside"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("dead_bytes", [0, 10**6])
def test_a_zip_whose_files_overlap_is_refused_before_a_byte_is_written(tmp_path, dead_bytes):
    archive, out = tmp_path / "bomb.zip", tmp_path / "out"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for number in range(50):
            opened.writestr(f"f{number:02d}", bytes(10**6) if number == 0 else b"")
    content = bytearray(archive.read_bytes())
    # Let each entry of the list at the end be the first file's data once more (Fifield 2019, "A better zip bomb").
    first = content.index(b"PK\x01\x02")
    sizes, place = content[first + 16 : first + 28], first
    while (place := content.find(b"PK\x01\x02", place + 1)) > 0:
        content[place + 16 : place + 28] = sizes
        content[place + 42 : place + 46] = bytes(4)
    archive.write_bytes(bytes(dead_bytes) + content)  # more than all sizes together
    with pytest.raises(InputError, match="its files overlap"):
        unpack(archive, out)
    assert not out.exists()


EVIL = ("=cmd|' calc'!A0", "+1+cmd", "@SUM(A1)", "<script>alert(1)<", "a&b\"'><img src=x onerror=alert(1)>")
"""Names of images that spreadsheets or browsers would run."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project after the whole chain whose ids, groups and class would run in a spreadsheet or a browser."""
    root = tmp_path_factory.mktemp("project")
    make_folder(root / "raw", {name: draw(n) for n, name in enumerate((*EVIL, "-5"))})
    masks = root / "raw" / "masks"
    (masks / "<b>one").mkdir()
    (masks / "=two()").mkdir()
    for path in sorted(masks.glob("*.png")):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(masks / "=two()" / path.name), np.flipud(mask))
        path.rename(masks / "<b>one" / path.name)
    experiment = small_experiment(root / "dataset", train={"steps": 2, "save_every": 2}, model={"classes": 2})
    (root / "small.toml").write_text(to_toml(experiment))
    return root


CHAIN = (
    "check dataset {0}/raw --report {0}/check.html",
    "build --data {0}/raw --out {0}/dataset --experiment {0}/small.toml --workers 1",
    "train {0}/small.toml --runs {0}/runs",
    "evaluate {0}/runs/small",
    "sweep {0}/sweep.toml --runs {0}/runs",
    "package {0}/runs/small --out {0}/weights",
    "check weights {0}/weights",
    "kernel hubmap_2022 --out {0}/kernels",
    "predict --weights {0}/weights --data {0}/raw --out {0}/s.csv --geojson {0}/geojson --overlays {0}/overlays",
    "predict --weights {0}/weights --data {0}/raw --out {0}/p.csv --num-shards 1 --shard-id 0",
    "merge {0}/p.csv --out {0}/m.csv",
    "check submission {0}/s.csv --data {0}/raw",
)
"""Every verb that is to work without a network; `simulate` runs its kernel so (tests/kaggle/simulate)."""


@pytest.fixture
def without_network(monkeypatch):
    """No way to open a connection, and nobody who would be asked."""
    asked = []

    def refuse(*arguments, **options):
        asked.append(arguments)
        refuse_network()

    for place in ("socket.connect", "socket.connect_ex", "socket.sendto"):
        monkeypatch.setattr(f"socket.{place}", refuse)
    for place in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(f"socket.{place}", refuse)
    return asked


def test_the_whole_chain_asks_nobody_and_lets_nothing_run(project, without_network, monkeypatch, capsys, caplog):
    for place in ("train.run.build_network", "trust.oof.build_network", "predict.tuner.build_network"):
        monkeypatch.setattr(f"histofold.{place}", lambda *_: TinyNet(classes=2))
    rows = "histofold.predict.submission.rows.MaskRows.build"
    monkeypatch.setattr(rows, staticmethod(lambda *_: TinyNet(classes=2)))
    sweep = 'experiment = "small.toml"\nfolds = [0]\nsampler = "grid"\n[space]\n"optim.lr" = [1e-3]\n'
    (project / "sweep.toml").write_text(sweep)
    before = {path for path in project.parent.rglob("*") if project not in path.parents}
    for line in CHAIN:
        assert main(line.format(project).split()) == 0, (line, capsys.readouterr().err)
    assert "runs as formulas: '+1+cmd', \"=cmd|' calc'!A0\", '@SUM(A1)' and 1 more" in caplog.text
    assert without_network == []
    assert {path for path in project.parent.rglob("*") if project not in path.parents} == before
    for page in project.rglob("*.html"):
        text = page.read_text()
        assert "<script" not in text, page
        assert "<img src=x" not in text
        assert "<b>one" not in text
        assert "default-src 'none'" in text
    submission = (project / "s.csv").read_text()
    assert "=cmd|' calc'!A0,<b>one," in submission, "ids stand as they are: they must meet the host's"
    assert submission == (project / "m.csv").read_text()


NEEDS_OTHERS = ("yolo", "sam")  # ultralytics; published weights, which tests/models/sam load without a network


@pytest.mark.parametrize("architecture", [name for name in get_args(Architecture) if name not in NEEDS_OTHERS])
def test_building_a_network_asks_nobody(architecture, without_network):
    build_network(architecture, ModelConfig(architecture=architecture).arguments())
    assert without_network == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_asks_nobody(verb, without_network):
    assert main([verb, "--help"]) == 0
    assert without_network == []


def test_weights_of_the_hub_without_a_network_are_refused_in_words(without_network, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = build_model("unet", {"encoder": "resnet18"})
    with pytest.raises(InputError, match="cannot be had"):
        load_encoder_weights(model, ModelConfig(encoder="resnet18", encoder_weights="nothing_of_the_kind"))


def test_a_verb_takes_the_switch_of_torch_away_for_libraries_too(monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert main(["check", "weights", "nowhere"]) == 2
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ


def test_weights_with_a_flipped_byte_are_refused(small_package, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(small_package, folder)
    path = folder / "small_fold0.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="its SHA-256 is not the manifest's"):
        load_manifest(folder)


def test_a_header_of_weights_that_claims_more_than_the_file_is_refused(tmp_path):
    save_file({"a": torch.zeros(4)}, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    for claim in (2**63, 2**31, len(content)):
        (tmp_path / "w.safetensors").write_bytes(claim.to_bytes(8, "little") + content[8:])
        with pytest.raises(InputError, match="not a safetensors file"):
            load_initial_weights(TinyNet(), tmp_path / "w.safetensors")
