"""Fixtures that many tests share: small folders and small weights, made on the spot."""

import os
from pathlib import Path

import pytest

# One precision whatever the processor, so that the tests are the same everywhere.
os.environ.setdefault("HISTOFOLD_PRECISION", "fp32")
PROJECT_ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Modules with slow tests come first, so that no process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(params=["fp32", "bf16"])
def precision(request, monkeypatch):
    """Has a test that trains run in either precision, whatever the processor."""
    monkeypatch.setenv("HISTOFOLD_PRECISION", request.param)


@pytest.fixture(scope="session")
def project_root():
    """The project's own folder."""
    return PROJECT_ROOT


@pytest.fixture(scope="session")
def shared_data():
    """The real slides beside the project; skips where they are absent."""
    folder = PROJECT_ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real slides are not beside the project")
    return folder


@pytest.fixture(scope="session")
def small_package(tmp_path_factory):
    """A folder of weights as `histofold package` makes it: two small random networks, whole chain of files."""
    import torch
    from safetensors.torch import save_file

    from histofold.models.build import build_model
    from histofold.schema.experiment import ModelConfig
    from histofold.schema.manifest import Manifest, Member, file_sha256, manifest_json
    from histofold.schema.preprocessing import Preprocessing
    from small_datasets import SMALL_UNET

    folder = tmp_path_factory.mktemp("weights")
    arguments = ModelConfig(**SMALL_UNET).arguments()
    members = []
    for fold in range(2):
        torch.manual_seed(fold)
        path = folder / f"small_fold{fold}.safetensors"
        save_file(build_model("unet", arguments).state_dict(), path)
        members.append(Member(file=path.name, sha256=file_sha256(path), architecture="unet", arguments=arguments))
    manifest = Manifest(
        competition="hubmap_2022",
        preprocessing=Preprocessing(target_pixel_size_um=1.6, whole_size=128),
        members=tuple(members),
        thresholds={"default": 0.5, "kidney": 0.45},
        tile=128,
        halo=16,
        views=("identity", "hflip"),
        batch=3,
    )
    (folder / "manifest.json").write_text(manifest_json(manifest))
    return folder
