"""What an experiment says of its encoder's images is known when its file is read."""

import pytest

from histofold.core.faults import InputError
from histofold.schema.encoders import built_side
from histofold.schema.experiment import Experiment
from histofold.schema.network import ModelConfig
from histofold.schema.parse import parse_dataclass

MAXVIT, HIERA = "tu-maxvit_tiny_tf_224.in1k", "tu-hiera_tiny_224.mae"


def read(model, **tables):
    return parse_dataclass(Experiment, {"model": model, **tables}, "E.toml")


@pytest.mark.parametrize(
    ("encoder", "side"),
    [
        (MAXVIT, 224),
        ("tu-maxvit_base_tf_512.in21k_ft_in1k", 512),
        ("tu-maxxvit_rmlp_nano_rw_256.sw_in1k", 256),
        ("tu-hiera_small_abswin_256", 256),
        ("tu-coatnet_rmlp_1_rw2_224", 224),
    ],
)
def test_an_encoder_s_own_side_stands_in_its_name(encoder, side):
    assert built_side(encoder) == side
    assert built_side(encoder, 96) == 96


@pytest.mark.parametrize("encoder", [MAXVIT, HIERA])
def test_a_tile_that_does_not_fit_is_refused_with_what_does(encoder):
    takes = "multiples of 224 px" if encoder == MAXVIT else "images of 224 px alone"
    with pytest.raises(InputError, match=rf"tiles.size=512: {encoder} takes {takes}: set model.image_size=512"):
        read({"encoder": encoder})
    fitting = read({"encoder": encoder, "image_size": 512})
    assert fitting.model.arguments()["image_size"] == 512
    assert "image_size" not in ModelConfig(encoder=encoder).arguments()
    with pytest.raises(InputError, match=r"predict.tile=768"):
        read({"encoder": encoder, "image_size": 512}, predict={"tile": 768})
    with pytest.raises(InputError, match=r"augment.crop=256"):
        read({"encoder": encoder, "image_size": 512}, augment={"crop": 256})


def test_larger_images_are_for_encoders_of_windows_alone():
    tables = {"tiles": {"size": 448, "stride": 224}, "predict": {"tile": 896}}
    assert read({"encoder": MAXVIT}, **tables).tiles.size == 448
    with pytest.raises(InputError, match="images of 224 px alone"):
        read({"encoder": HIERA}, **tables)


def test_whole_images_are_looked_at_zooms_included():
    whole = {"preprocessing": {"scale_mode": "whole", "whole_size": 640}, "predict": {"views": ["identity", "hflip"]}}
    assert read({"encoder": HIERA, "image_size": 640}, **whole).preprocessing.whole_size == 640
    whole["predict"] = {"views": ["identity", "hflip@1.2"]}
    with pytest.raises(InputError, match=r"views @1.2=768.*images of 640 px alone"):
        read({"encoder": HIERA, "image_size": 640}, **whole)


@pytest.mark.parametrize("encoder", ["", "resnet34", "tu-pvt_v2_b0", "tu-swin_tiny_patch4_window7_224", "tu-coat_tiny"])
def test_other_encoders_take_every_tile_and_have_no_side_to_choose(encoder):
    assert read({"encoder": encoder}, tiles={"size": 352, "stride": 352}).tiles.size == 352
    with pytest.raises(InputError, match="image_size=96 is not read by"):
        read({"encoder": encoder, "image_size": 96})


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"encoder": "tu-hf-hub:bioptimus/H-optimus-0", "architecture": "dpt"}, "is no name.*file:PATH"),
        ({"encoder": "hf-hub:MahmoodLab/uni"}, "is no name.*file:PATH"),
        ({"encoder": "tu-vit_tiny_patch16_224"}, "dpt takes tu-vit_.*no other architecture does"),
        ({"encoder": "resnet34", "architecture": "dpt"}, "dpt takes tu-vit_"),
        ({"encoder": "tu-swin_tiny_patch4_window7_224", "architecture": "pan"}, "cannot be dilated"),
        ({"encoder": MAXVIT, "image_size": 100}, "multiple of 32"),
        ({"encoder": "resnet34", "architecture": "fpn", "decoder_channels": [8, 8, 8, 8, 8]}, "and manet"),
    ],
)
def test_encoders_that_cannot_be_are_refused_in_words(model, words):
    with pytest.raises(InputError, match=words):
        read(model)
