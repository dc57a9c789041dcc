"""Weights and a kernel that pass all checks and hold next to nothing, for tests of the hand-over to Kaggle."""

import hashlib
import json

from histofold.kaggle.metadata.dataset import dataset_metadata
from histofold.kaggle.metadata.kernel import kernel_metadata
from histofold.schema.manifest import Manifest, Member, manifest_json
from histofold.schema.preprocessing import Preprocessing

SLUG = "hubmap-organ-segmentation"


def tensor_file(content):
    """A safetensors file of one tensor of bytes."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}}).encode()
    return len(header).to_bytes(8, "little") + header + content


def make_weights(folder, content=b"weights"):
    """A weights folder; its network needs no wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a_fold0.safetensors").write_bytes(tensor_file(content))
    digest = hashlib.sha256(tensor_file(content)).hexdigest()
    member = Member(file="a_fold0.safetensors", sha256=digest, architecture="segformer")
    manifest = Manifest(competition="hubmap_2022", preprocessing=Preprocessing(), members=(member,))
    (folder / "manifest.json").write_text(manifest_json(manifest))
    data = dataset_metadata("histofold-weights", "histofold weights", "CC-BY-4.0")
    (folder / "dataset-metadata.json").write_text(json.dumps(data))
    (folder / "README.md").write_text("not for the dataset")
    return folder


def make_kernel(folder, code="print('predicting')\n"):
    """A kernel's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.py").write_text(code)
    data = kernel_metadata(SLUG, "histofold-hubmap-2022", "kernel.py", ["your-kaggle-name/histofold-weights"])
    (folder / "kernel-metadata.json").write_text(json.dumps(data))
    return folder
