"""Graphs: what is marked where, bytes that repeat, odd tables, and no global state."""

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from histofold.report.graphs import PALETTE, finish_figure
from histofold.report.graphs import dataset as balance
from histofold.report.graphs import run as plots
from histofold.report.graphs.dataset import plot_class_balance
from histofold.report.graphs.run import plot_curves, plot_scores

pytestmark = pytest.mark.slow


def training_log(seed: int = 0, steps: int = 60, every: int = 10) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    step = np.arange(1, steps + 1)
    validated = step % every == 0
    dice = np.where(validated, 0.5 + 0.3 * step / steps, np.nan)
    dice[step == steps - every] = 0.95
    return pd.DataFrame(
        {
            "step": step,
            "epoch": step // 20,
            "lr": 3e-4 * (1 - step / (steps + 1)),
            "loss": 1 / step + generator.random(steps) / 10,
            "val_loss": np.where(validated, 0.4, np.nan),
            "val_dice": dice,
            "val_dice_raw": dice - 0.02,
        }
    )


def oof_table() -> pd.DataFrame:
    rows = [
        ("1", 0, "kidney", "HPA", 0.9),
        ("2", 1, "kidney", "Hubmap", 0.8),
        ("3", 0, "lung", "HPA", np.nan),
        ("4", 1, "lung", "HPA", 0.0),
        ("5", 1, None, "HPA", 1.0),
    ]
    return pd.DataFrame(rows, columns=["id", "fold", "organ", "source", "dice"])


def tile_index(tiles: int = 200) -> pd.DataFrame:
    generator = np.random.default_rng(3)
    fraction = np.where(generator.random(tiles) < 0.4, 0, generator.random(tiles))
    return pd.DataFrame(
        {
            "tile_id": [str(tile) for tile in range(tiles)],
            "id": [str(tile % 9) for tile in range(tiles)],
            "fold": [tile % 3 for tile in range(tiles)],
            "mask_fraction": fraction,
            "tissue_fraction": generator.random(tiles),
            "bin": np.where(fraction == 0, "none", np.where(fraction < 0.3, "some", "large")),
        }
    )


def decoded(content: bytes) -> np.ndarray:
    image = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    assert image.shape[1] == 1280
    assert (image != 255).any(axis=2).mean() > 0.003, "the graph is empty"
    return image


@pytest.fixture
def figures(monkeypatch):
    """The figures themselves, as they are handed over for rendering."""
    caught = []
    for module in (plots, balance):
        monkeypatch.setattr(
            module, "finish_figure", lambda figure, path=None: (caught.append(figure), finish_figure(figure, path))[1]
        )
    return caught


def texts(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_curves_mark_last_as_filled_and_best_as_hollow(figures) -> None:
    plot_curves(training_log())
    dice_axes = figures[0].axes[1]
    marks = {line.get_markerfacecolor(): line for line in dice_axes.lines if line.get_marker() == "o"}
    hollow = marks.pop("white")
    (filled,) = marks.values()
    assert (hollow.get_xdata()[0], hollow.get_ydata()[0]) == (50, 0.95)
    assert (filled.get_xdata()[0], filled.get_ydata()[0]) == (60, pytest.approx(0.8))
    assert {"0.8000", "best (optimistic) 0.9500"} <= set(texts(figures[0]).split("\n"))


def test_curves_name_another_metric_and_every_part_of_the_loss(figures) -> None:
    log = training_log().rename(columns={"val_dice": "val_ap50", "val_dice_raw": "val_ap50_raw"})
    plot_curves(log.assign(loss_mask=0.2, loss_box_reg=0.1))
    assert {"Validation AP50", "mask", "box reg", "0.8000"} <= set(texts(figures[0]).split("\n"))
    assert [0.2] * len(log) in [list(np.round(line.get_ydata(), 6)) for line in figures[0].axes[0].lines]
    plot_curves(log.assign(loss_mask=0.2))
    assert "mask" not in texts(figures[1])


def test_curves_call_nothing_optimistic_that_was_not_chosen(figures) -> None:
    log = training_log()
    plot_curves(log.assign(val_dice=log["val_dice"].where(log["val_dice"] < 0.9)))
    assert "optimistic" not in texts(figures[0])


def test_a_single_validation_is_a_dot_in_every_panel(figures) -> None:
    plot_curves(training_log().iloc[[9]])
    for axes in figures[0].axes:
        assert any(line.get_marker() == "o" and list(line.get_xdata()) == [10] for line in axes.lines)
        assert axes.get_xlim() == (0, 10)
    assert np.diff(figures[0].axes[1].get_ylim())[0] >= 0.05 - 1e-9


def test_legends_stand_above_what_is_drawn(figures) -> None:
    plot_curves(training_log())
    for axes in figures[0].axes[:2]:
        assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1 - 1


def test_panels_without_anything_say_so(figures) -> None:
    plot_class_balance(tile_index().assign(mask_fraction=0.0, bin="none"))
    assert "none" in [text.get_text() for text in figures[0].axes[2].texts]
    assert not list(figures[0].axes[3].texts)


def test_curves_connect_validations_across_blank_rows(figures) -> None:
    plot_curves(training_log())
    longest = max(figures[0].axes[1].lines, key=lambda line: len(line.get_xdata()))
    assert list(longest.get_xdata()) == [10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize(
    "log",
    [
        training_log().iloc[:0],
        training_log().iloc[:1],
        training_log().iloc[:12],
        training_log().assign(val_dice=np.nan, val_dice_raw=np.nan, val_loss=np.nan),
        training_log()[["step", "lr", "loss"]],
        training_log().assign(loss=np.inf, lr=0.0),
        training_log().astype(object).where(training_log().notna(), ""),
    ],
    ids=[
        "no rows",
        "one row",
        "one validation",
        "never validated",
        "few columns",
        "infinite",
        "blank strings",
    ],
)
def test_curves_of_odd_logs_are_drawn(log) -> None:
    decoded(plot_curves(log))


def test_same_data_same_bytes_and_the_file_holds_them(tmp_path) -> None:
    assert plot_scores(oof_table()) == plot_scores(oof_table())
    first = plot_curves(training_log(), tmp_path / "new" / "curves.png")
    assert first == plot_curves(training_log())
    assert (tmp_path / "new" / "curves.png").read_bytes() == first
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["curves.png"]


def test_dice_by_organ_draws_each_scored_image_once_and_counts_the_rest(figures) -> None:
    decoded(plot_scores(oof_table()))
    axes = figures[0].axes[0]
    drawn = np.concatenate([np.asarray(dots.get_offsets())[:, 0] for dots in axes.collections])
    assert sorted(drawn) == [0.0, 0.8, 0.9, 1.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["lung", "kidney", "not named"]
    assert "1 without a score" in axes.get_xlabel()
    low, high = axes.get_xlim()
    assert low < 0 < 1 < high


@pytest.mark.parametrize("oof", [oof_table().iloc[:0], oof_table().assign(dice=np.nan), oof_table().iloc[:1]])
def test_dice_by_organ_of_few_or_no_scores(oof: pd.DataFrame) -> None:
    decoded(plot_scores(oof))


def test_class_balance_bars_add_up(figures) -> None:
    index = tile_index()
    decoded(plot_class_balance(index))
    by_bin, by_fold, mask, tissue = figures[0].axes
    widths = {
        label.get_text(): bar.get_width() for label, bar in zip(by_bin.get_yticklabels(), by_bin.patches, strict=True)
    }
    counts = index["bin"].value_counts()
    assert widths == {name.replace("_", " "): counts.get(name, 0) for name in balance.TILE_BINS}
    assert sum(bar.get_height() for bar in by_fold.patches) == len(index)
    assert sum(bar.get_height() for bar in mask.patches) == (index["mask_fraction"] > 0).sum()
    assert sum(bar.get_height() for bar in tissue.patches) == len(index)


@pytest.mark.parametrize(
    "index", [tile_index().iloc[:0], tile_index(1), tile_index().assign(bin="other", tissue_fraction=np.nan)]
)
def test_class_balance_of_odd_indexes(index: pd.DataFrame) -> None:
    decoded(plot_class_balance(index))


def test_line_colours_stand_out_from_white_paper() -> None:
    def luminance(colour: str) -> float:
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    assert min(1.05 / (luminance(colour) + 0.05) for colour in PALETTE) > 2


def test_pyplot_is_never_loaded() -> None:
    modules = "histofold.report.graphs.run, histofold.report.graphs.dataset"
    code = f"import sys, {modules}; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
