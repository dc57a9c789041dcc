"""Settings of a network that go with no encoder, or only with one."""

import pytest

from histofold.core.faults import InputError
from histofold.schema.experiment import Experiment
from histofold.schema.network import SHIPPED_ENCODER, ModelConfig
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
