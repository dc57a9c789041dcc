"""The schedule as a picture: what is drawn where, and how it is asked for."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from timm.utils import ModelEmaV3

from histofold.commands.main import main
from histofold.report.graphs import schedule as schedule_plot
from histofold.report.graphs.schedule import plot_schedule
from histofold.schema.optim import OptimConfig
from histofold.train.schedule import schedule_table
from small_datasets import BASE, build, draw, make_folder

pytestmark = pytest.mark.slow

STEPS = 120
CONFIGS = {
    "cosine": OptimConfig(),
    "bare": OptimConfig(schedule="constant", warmup=0.0, ema=0.0),
    "cycle": OptimConfig(optimizer="sgd", schedule="one_cycle", warmup=0.3, low_momentum=0.5, encoder_lr_factor=0.5),
    "step": OptimConfig(schedule="step", gamma=0.5, encoder_lr_factor=0.01),
    "plateau": OptimConfig(schedule="plateau"),
    "poly": OptimConfig(schedule="poly", final_lr=0.0, encoder_lr_factor=0.0, ema=0.0, average_from=0.75),
}


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn, kept for a look inside; only those that go to a file are rendered."""
    kept, finish = [], schedule_plot.finish_figure

    def keep(figure, path):
        kept.append(figure)
        return finish(figure, path) if path is not None else b""

    monkeypatch.setattr(schedule_plot, "finish_figure", keep)
    return kept


def drawn(config, figures, steps=STEPS, steps_per_epoch=10.0):
    table = schedule_table(steps, config, steps_per_epoch=steps_per_epoch or 1.0)
    plot_schedule(table, config, steps_per_epoch=steps_per_epoch)
    return table, figures[-1].axes


def texts(axes):
    return " ".join(text.get_text() for panel in axes for text in panel.texts)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_lines_are_the_rates_of_every_step(name, figures):
    config = CONFIGS[name]
    table, axes = drawn(config, figures)
    title = axes[0].get_title(loc="left")
    assert config.schedule in title
    assert config.optimizer in title
    scale = 1e-3 if "10$^{-3}$" in title else 1.0
    lines = [line.get_ydata() * scale for line in axes[0].lines]
    wanted = [table["lr"]] + [table["lr"] * config.encoder_lr_factor] * (config.encoder_lr_factor != 1)
    np.testing.assert_allclose(np.array(lines), np.array(wanted), rtol=1e-9)
    assert axes[0].get_yscale() == ("log" if name in ("step", "plateau") else "linear")


def test_momentum_is_drawn_only_where_it_moves(figures):
    table, axes = drawn(CONFIGS["cycle"], figures)
    assert axes[1].get_title(loc="left") == "Momentum"
    np.testing.assert_array_equal(axes[1].lines[0].get_ydata(), table["momentum"])
    assert len(drawn(CONFIGS["bare"], figures)[1]) == 1


def test_spans_say_what_holds_when(figures):
    _, axes = drawn(OptimConfig(warmup=0.25, ema=0.9), figures)
    warmup, growing, full = [bar for bar in axes[-1].patches if bar.get_width() > 0]
    assert (warmup.get_x(), warmup.get_width()) == (0, 30)
    assert "warm-up: 30 steps" in texts(axes)
    assert full.get_x() + full.get_width() == STEPS
    peer = ModelEmaV3(torch.nn.Linear(1, 1), decay=0.9, use_warmup=True)
    assert full.get_x() == growing.get_width()
    assert peer.get_decay(math.floor(growing.get_width()) + 1) < 0.9
    assert peer.get_decay(math.ceil(growing.get_width()) + 1) == 0.9


def test_plateau_shows_what_the_rate_may_fall_to(figures):
    config = OptimConfig(schedule="plateau", gamma=0.25, final_lr=0.01)
    _, axes = drawn(config, figures)
    (levels,) = axes[0].collections
    heights = [segment[0][1] for segment in levels.get_segments()]
    np.testing.assert_allclose(heights, 1e-3 * np.array([0.01, 0.25**3, 0.25**2, 0.25]))
    assert "next rates" in axes[0].get_legend().get_texts()[-1].get_text()
    low, high = axes[0].get_ylim()
    assert low < heights[0]
    assert high > 1e-3
    assert not drawn(OptimConfig(schedule="plateau", gamma=1.0), figures)[1][0].collections


def test_equal_averages_say_how_many_they_are(figures):
    _, axes = drawn(CONFIGS["poly"], figures)
    bars = [(bar.get_x(), bar.get_width()) for bar in axes[-1].patches if bar.get_width() > 0]
    assert bars == [(0, 6), (90, 30)]
    assert "3 weights, one every 10 steps" in texts(axes)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_run_of_one_step_is_drawn(name, tmp_path):
    config = CONFIGS[name]
    plot_schedule(schedule_table(1, config, steps_per_epoch=1.0), config, path=tmp_path / "one.png")
    image = np.asarray(Image.open(tmp_path / "one.png").convert("RGB"))
    assert (image == (0x22, 0x26, 0x2E)).all(2).any()


def test_bytes_repeat_and_are_written(tmp_path):
    config = CONFIGS["cosine"]
    table = schedule_table(STEPS, config, steps_per_epoch=10.0)
    first = plot_schedule(table, config, steps_per_epoch=10.0, path=tmp_path / "deep" / "schedule.png")
    assert first == plot_schedule(table, config, steps_per_epoch=10.0)
    assert (tmp_path / "deep" / "schedule.png").read_bytes() == first
    assert first != plot_schedule(table, config)
    assert Image.open(io.BytesIO(first)).width == 1280


def experiment_file(folder, dataset, *lines):
    path = folder / "E.toml"
    text = [f'[data]\ndataset = "{dataset}"', '[preprocessing]\nscale_mode = "whole"\nwhole_size = 64', *lines]
    path.write_text("\n".join(text))
    return path


def test_without_a_dataset_it_is_drawn_in_steps_alone(tmp_path, capsys, figures):
    path = experiment_file(tmp_path, tmp_path / "nowhere", "[train]\nsteps = 50")
    assert main(["train", str(path), "--show-schedule", str(tmp_path / "s.png")]) == 0
    assert "schedule of 50 steps" in capsys.readouterr().out
    assert (tmp_path / "s.png").is_file()
    assert not any(axes.child_axes for axes in figures[-1].axes)
    assert main(["train", str(path), "--show-schedule", str(tmp_path / "s.jpg")]) == 2
    assert main(["train", str(path), "--show-schedule", str(tmp_path / "t.png"), "--optim.schedule", "step"]) == 2
    assert "counts epochs" in capsys.readouterr().err
    assert not (tmp_path / "t.png").exists()


def test_with_a_dataset_epochs_are_as_long_as_its_tiles_say(tmp_path, figures):
    root = make_folder(tmp_path / "root", {f"p{k}": draw(k) for k in range(6)})
    dataset = build(root, tmp_path / "dataset")
    lines = ["[train]\nsteps = 30\nbatch = 2\naccumulate = 3", '[optim]\nschedule = "step"\ngamma = 0.5\nwarmup = 0.0']
    path = experiment_file(tmp_path, dataset, *lines)
    assert BASE.preprocessing.whole_size == 64
    assert main(["train", str(path), "--show-schedule", str(tmp_path / "s.png"), "--runs", str(tmp_path / "runs")]) == 0
    (line,) = figures[-1].axes[0].lines
    # Three slides of one tile each are left to train on: a step of 2 x 3 tiles is two epochs.
    np.testing.assert_allclose(line.get_ydata(), 1e-3 * 0.25 ** np.arange(30), rtol=1e-9)
    assert figures[-1].axes[0].child_axes
    assert not (tmp_path / "runs").exists()
