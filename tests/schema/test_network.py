"""Settings of a network that go with no encoder, or only with one."""

import json

import pytest

from histofold.core.faults import InputError
from histofold.schema.experiment import Experiment
from histofold.schema.network import SHIPPED_ENCODER, DetectorConfig, ModelConfig
from histofold.schema.parse import parse_dataclass


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
