import numpy as np
import pytest
import torch

from histofold.core.faults import InputError
from histofold.predict.devices import best_precision
from histofold.predict.stages import Level, full_level, stages_at
from histofold.predict.views import normalise_tiles
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from small_stages import CPU, averaged, stages_of_models

TILES_NHWC = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3)).astype(np.uint8)


class Scale(torch.nn.Module):
    """Logits: a multiple of the first channel."""

    def __init__(self, factor):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(float(factor)))

    def forward(self, images_NCHW):
        return images_NCHW[:, :1] * self.factor


def ensemble_of(models, weights=None, views=("identity",), average="probabilities", **settings):
    manifest = Manifest(
        competition="folder", preprocessing=Preprocessing(normalise="none"), views=views, average=average
    )
    return stages_of_models(models, manifest, weights, **settings)


def test_probabilities_are_averaged_by_weight():
    first, second = Scale(1), Scale(-2)
    values = torch.from_numpy(TILES_NHWC[..., 0]).float() / 255
    expected = (3 * torch.sigmoid(values) + torch.sigmoid(-2 * values)) / 4
    result = averaged(ensemble_of([first, second], [3.0, 1.0]), TILES_NHWC)
    assert result.shape == (3, 1, 64, 96)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[:, 0], expected.detach().numpy(), atol=1e-6)


def test_views_of_a_pixelwise_network_change_nothing():
    views = ("identity", "hflip", "vflip", "rot180", "transpose", "rot90", "rot270", "antitranspose")
    one, all_views = (averaged(ensemble_of([Scale(2)], views=v), TILES_NHWC) for v in (("identity",), views))
    np.testing.assert_allclose(one, all_views, atol=1e-6)


def test_an_ensemble_of_all_views_is_equivariant():
    torch.manual_seed(0)
    views = ("identity", "hflip", "vflip", "rot180", "transpose", "rot90", "rot270", "antitranspose")
    net = ensemble_of([torch.nn.Conv2d(3, 1, 5, padding=2)], views=views)
    turned = np.ascontiguousarray(np.rot90(TILES_NHWC, axes=(1, 2)))
    both = averaged(net, TILES_NHWC), averaged(net, turned)
    np.testing.assert_allclose(np.rot90(both[0], axes=(2, 3)), both[1], atol=1e-5)


def test_one_module_twice_is_refused():
    model = Scale(1)
    with pytest.raises(ValueError, match="one module stands twice"):
        ensemble_of([model, model])
    with pytest.raises(ValueError, match="as many models"):
        ensemble_of([model], [1.0, 2.0])
    with pytest.raises(ValueError, match="known are identity"):
        ensemble_of([model], views=("upside-down",))


class Overflow(torch.nn.Module):
    """A network that is not a number below full precision (or always)."""

    def __init__(self, always):
        super().__init__()
        self.always = always

    def forward(self, images_NCHW):
        broken = self.always or torch.is_autocast_enabled("cpu")
        return images_NCHW[:, :1] * (float("nan") if broken else 1.0)


def test_an_overflow_is_computed_again_in_full_precision():
    low, full = (ensemble_of([Overflow(False)], precision=each) for each in (torch.bfloat16, torch.float32))
    np.testing.assert_array_equal(averaged(low, TILES_NHWC), averaged(full, TILES_NHWC))
    with pytest.raises(ArithmeticError, match="not numbers"):
        averaged(ensemble_of([Overflow(True)], precision=torch.bfloat16), TILES_NHWC)


def test_normalisations():
    tiles = torch.from_numpy(TILES_NHWC).permute(0, 3, 1, 2)
    values = tiles.float() / 255
    assert torch.equal(normalise_tiles(tiles, Preprocessing(normalise="none")), values)
    expected = (values - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    torch.testing.assert_close(normalise_tiles(tiles, Preprocessing(normalise="imagenet")), expected)
    own = normalise_tiles(tiles, Preprocessing(normalise="per_image"))
    torch.testing.assert_close(own.mean((2, 3)), torch.zeros(3, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(own.std((2, 3), correction=0), torch.ones(3, 3), atol=1e-3, rtol=0)
    white = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    assert normalise_tiles(white, Preprocessing(normalise="per_image")).isfinite().all()


def test_logits_are_averaged_where_it_is_asked_for():
    values = torch.from_numpy(TILES_NHWC[..., 0]).float() / 255
    net = ensemble_of([Scale(1), Scale(-2)], [3.0, 1.0], average="logits")
    np.testing.assert_allclose(averaged(net, TILES_NHWC)[:, 0], ((3 - 2) * values / 4).numpy(), atol=1e-6)


def test_a_stain_view_changes_what_the_network_sees():
    plain, restained = (
        averaged(ensemble_of([Scale(2)], views=v), TILES_NHWC) for v in (("identity",), ("identity~h1.4e1.4",))
    )
    assert (restained <= plain + 1e-6).all(), "more stain is darker"
    assert (restained < plain - 1e-3).any()


def test_a_level_keeps_the_first_members_and_views():
    net = ensemble_of([Scale(1), Scale(2), Scale(3)], [1.0, 2.0, 3.0], views=("identity", "hflip"))
    assert full_level(net) == Level(3, 2)
    kept = net[0].passes_at(Level(2, 1))
    assert [(one.member, one.view, one.weight) for one in kept] == [(0, "identity", 1.0), (1, "identity", 2.0)]
    expected = ensemble_of([Scale(1), Scale(2)], [1.0, 2.0])
    np.testing.assert_array_equal(averaged(net, TILES_NHWC, Level(2, 1)), averaged(expected, TILES_NHWC))


def test_a_stage_without_passes_goes_and_the_others_share_what_it_had():
    views = ("identity", "hflip@0.5", "vflip", "rot180@0.5", "identity@2")
    stages = ensemble_of([Scale(1), Scale(2)], views=views)
    assert [stage.manifest.preprocessing.target_pixel_size_um for stage in stages] == [1.6, 3.2, 0.8]
    assert [stage.share for stage in stages] == pytest.approx([0.4, 0.4, 0.2])
    assert [len(stage.passes) for stage in stages] == [4, 4, 2]
    left = stages_at(stages, Level(2, 2))
    assert [(stage.place, stage.share, len(stage.passes)) for stage in left] == [(0, 0.5, 2), (1, 0.5, 2)]
    assert stages[1].passes_at(Level(2, 1)) == ()
    begun = stages[1].passes_at(Level(2, 1), begun=True)
    assert [(one.member, one.view) for one in begun] == [(0, "hflip@0.5"), (1, "hflip@0.5")]


def test_precision_is_read_from_the_machine(monkeypatch):
    monkeypatch.delenv("HISTOFOLD_PRECISION", raising=False)
    assert best_precision(CPU) in (torch.float32, torch.bfloat16)
    assert best_precision(CPU) == best_precision(CPU)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_precision_can_be_forced(monkeypatch, name, dtype):
    monkeypatch.setenv("HISTOFOLD_PRECISION", name)
    assert best_precision(CPU) == dtype
    monkeypatch.setenv("HISTOFOLD_PRECISION", "half")
    with pytest.raises(InputError, match="bf16 or fp32"):
        best_precision(CPU)
