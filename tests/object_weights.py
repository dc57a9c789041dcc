"""Small folders and weights of the competitions of objects, made on the spot: a dense network and a detector."""

import json

import cv2
import numpy as np
import tifffile
import torch
from safetensors.torch import save_file

from histofold.models.instances.build import build_network
from histofold.schema.manifest import Manifest, Member, file_sha256, manifest_json
from histofold.schema.network import is_detector
from histofold.schema.objects import DENSE_MAPS, ObjectConfig
from histofold.schema.preprocessing import Preprocessing

CLASSES = {"vasculature_2023": "blood_vessel", "vrdl_nuclei": "nucleus"}
DENSE = ("unet", {"encoder": "tu-lcnet_035", "decoder_channels": [16, 16, 8, 8, 8], "classes": 3})
DETECTOR = (
    "maskrcnn",
    {
        "encoder": "tu-lcnet_035",
        "max_detections": 12,
        "proposals_before_nms": 40,
        "proposals_after_nms": 30,
        "classes": 1,
    },
)


def tissue(shape_hw, seed):
    """Pink noise in blocks, so that an untrained network sees something."""
    rng = np.random.default_rng(seed)
    coarse_HWC = rng.integers(60, 255, (shape_hw[0] // 12 + 1, shape_hw[1] // 12 + 1, 3), np.uint8)
    return np.repeat(np.repeat(coarse_HWC, 12, axis=0), 12, axis=1)[: shape_hw[0], : shape_hw[1]].copy()


def object_package(folder, competition, network=DENSE, members=1, **settings):
    """Weights of a competition of objects, as `histofold package` writes them: random networks."""
    architecture, arguments = network
    folder.mkdir(parents=True)
    written = []
    for fold in range(members):
        torch.manual_seed(fold)
        model = build_network(architecture, arguments)
        path = folder / f"small_fold{fold}.safetensors"
        save_file(model.state_dict(), path)
        digest = file_sha256(path)
        written.append(Member(file=path.name, sha256=digest, architecture=architecture, arguments=arguments, fold=fold))
    name = CLASSES[competition]
    defaults = {
        "objects": ObjectConfig(mask_threshold=0.44, marker=0.0, min_area_px=4, max_objects=30),
        "tile": 64,
        "halo": 8,
        "batch": 3,
        "views": ("identity", "rot90"),
    }
    manifest = Manifest(
        competition=competition,
        preprocessing=Preprocessing(target_pixel_size_um=0.5),
        classes=(name,) if is_detector(architecture) else (name, *DENSE_MAPS),
        members=tuple(written),
        **(defaults | settings),
    )
    (folder / "manifest.json").write_text(manifest_json(manifest))
    return folder


def vasculature_test(root, shapes):
    """A hidden test set of 2023: tiles by id, None for one that is missing; gives the folder."""
    (root / "test").mkdir(parents=True)
    rows = ["id,height,width,prediction_string"]
    for number, (key, shape_hw) in enumerate(shapes.items()):
        if shape_hw is not None:
            tifffile.imwrite(root / "test" / f"{key}.tif", tissue(shape_hw, number), compression="lzw", predictor=True)
        height, width = shape_hw or (512, 512)
        rows.append(f"{key},{height},{width},")
    (root / "sample_submission.csv").write_text("\n".join(rows) + "\n")
    return root


def vrdl_test(root, shapes):
    """A test set of VRDL's nuclei; gives the folder."""
    (root / "test").mkdir(parents=True)
    entries = []
    for number, (key, shape_hw) in enumerate(shapes.items()):
        if shape_hw is not None:
            cv2.imwrite(str(root / "test" / f"{key}.png"), tissue(shape_hw, number))
        height, width = shape_hw or (100, 100)
        entries.append({"id": number + 1, "file_name": f"{key}.png", "height": height, "width": width})
    (root / "test_img_ids.json").write_text(json.dumps(entries))
    return root
