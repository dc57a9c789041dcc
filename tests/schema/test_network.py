"""Settings of a network that go with no encoder, or only with one."""

import json

import pytest

from histofold.core.faults import InputError
from histofold.schema.experiment import Experiment
from histofold.schema.network import SHIPPED_ENCODER, DetectorConfig, ModelConfig
from histofold.schema.parse import parse_dataclass
from histofold.schema.sam import SamConfig


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, "resnet34"),
        ({"encoder": "tu-tf_efficientnet_lite1"}, "tu-tf_efficientnet_lite1"),
        ({"architecture": "segformer"}, "mit_b0"),
        ({"architecture": "unext50"}, "its own"),
    ],
)
def test_shipped_weights_of_another_encoder_are_refused_in_words(settings, found):
    with pytest.raises(ValueError, match=f"the encoder is '{found}': write encoder = '{SHIPPED_ENCODER}'"):
        ModelConfig(**settings, encoder_weights="shipped")
    assert ModelConfig(encoder=SHIPPED_ENCODER, encoder_weights="shipped").encoder_weights == "shipped"


def test_no_name_of_weights_is_refused_with_the_choices():
    with pytest.raises(
        InputError, match=r"`none`, `shipped`, the hub's name of weights \(imagenet, ...\) or `file:PATH`"
    ):
        parse_dataclass(Experiment, {"model": {"encoder_weights": ""}}, "E.toml")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": 2}, "objects of one class"),
        ({"activation": "softmax"}, "objects of one class"),
        ({"detector": DetectorConfig(anchor_sizes=(8, 16))}, "pyramid of five maps"),
        ({"detector": DetectorConfig(queries=50)}, "queries is not read by maskrcnn"),
        ({"architecture": "unet", "detector": DetectorConfig(max_detections=5)}, "max_detections is not read by unet"),
        ({"architecture": "mask2former", "detector": DetectorConfig(norm="frozen")}, "norm is not read by mask2former"),
    ],
)
def test_what_a_detector_does_not_read_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig(**{"architecture": "maskrcnn", **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"anchor_sizes": ()},
        {"anchor_sizes": (8, 0)},
        {"max_detections": 0},
        {"nms_threshold": 1.5},
        {"score_threshold": -1},
    ],
)
def test_limits_of_a_detector_have_ranges(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        DetectorConfig(**settings)


def test_arguments_of_a_detector_survive_json():
    """A run's record is compared with them."""
    arguments = ModelConfig(architecture="maskrcnn_c4", detector=DetectorConfig(anchor_sizes=(4, 9))).arguments()
    assert json.loads(json.dumps(arguments)) == arguments
    assert arguments["anchor_sizes"] == [4, 9]
    assert "queries" not in arguments


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder_weights": "none"}, "name its file or folder"),
        ({"encoder_weights": "imagenet"}, "name its file or folder"),
        ({"init": "file:x.safetensors"}, "and no init"),
        ({"classes": 2}, "have no classes"),
        ({"activation": "softmax"}, "have no classes"),
        ({"encoder": "resnet34"}, "an encoder of its own"),
        ({"architecture": "unet", "encoder_weights": "none", "sam": SamConfig(min_iou=0.5)}, "belongs to sam"),
    ],
)
def test_what_does_not_go_with_segment_anything_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig(**{"architecture": "sam", "encoder_weights": "file:sam.pth", **settings})


@pytest.mark.parametrize(
    "settings", [{"points_per_side": 0}, {"min_iou": 1.1}, {"min_stability": -0.1}, {"max_area_share": 0.0}]
)
def test_what_segment_anything_cannot_be_asked_is_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}=.* must"):
        SamConfig(**settings)


def test_segment_anything_learns_nothing_and_everything_else_learns():
    sam = {"architecture": "sam", "encoder_weights": "file:sam.pth"}
    told = {**sam, "sam": {"prompts": "truth_points"}}
    identity = {"views": ["identity"]}
    five = {"preprocessing": {"slices": 5}, "augment": {"preset": "none"}}
    experiment = parse_dataclass(Experiment, {"model": told, "train": {"steps": 0}, "predict": identity}, "E.toml")
    assert experiment.model.arguments()["sam"]["prompts"] == "truth_points"
    for data, words in (
        ({"model": sam}, "must be 0 for sam"),
        ({"train": {"steps": 0}}, "at least 1 for others, as unet"),
        ({"model": told, "train": {"steps": 0}}, "predict.views=.*as it is"),
        ({"model": sam, "train": {"steps": 0}, "preprocessing": {"normalise": "none"}}, "as it was published"),
        ({"model": sam, "train": {"steps": 0}, **five}, "set slices to 1 or 3"),
        ({"train": {"steps": -1}}, "must not be negative"),
    ):
        with pytest.raises(InputError, match=words):
            parse_dataclass(Experiment, data, "E.toml")
