"""The forecast from a log in each of its forms, and the estimate where there is none."""

import json
from dataclasses import replace

import pytest

from histofold.core.faults import InputError
from histofold.kaggle.forecast_estimate import T4_COUNT, T4_TFLOPS, T4Estimate, estimate_on_t4
from histofold.kaggle.forecast_log import read_log_timing
from histofold.kaggle.submit.client_text import read_log
from histofold.schema.manifest import load_manifest
from kernels.test_forecast import TIMING

LINES = [
    "2026 INFO begin\n",
    f"2026 INFO {replace(TIMING, seconds=1.0).line()}\n",
    f"2026 INFO {TIMING.line()}\n",
    "end\n",
]


def as_kaggle(lines):
    return json.dumps([{"stream_name": "stderr", "time": 1.5 * n, "data": line} for n, line in enumerate(lines)])


@pytest.mark.parametrize(
    "text",
    [
        "".join(LINES),
        as_kaggle(LINES),
        as_kaggle(LINES).replace("}, {", "}\n,{"),
        as_kaggle([*LINES, "more"])[:-20],
        as_kaggle([LINES[1], LINES[2][:60], LINES[2][60:]]),
        "[a log that begins so]\n" + LINES[2],
    ],
    ids=["text", "json", "json lines", "json cut short", "json split in a line", "text with a bracket"],
)
def test_the_last_timing_of_a_log_is_read(tmp_path, text):
    path = tmp_path / "kernel.log"
    path.write_text(text)
    assert read_log_timing(path) == TIMING
    changed = read_log_timing(path, 10, 9000)
    assert changed.hidden_s() == 100 + 10 * 40


def test_a_log_without_a_timing_is_refused(tmp_path):
    path = tmp_path / "kernel.log"
    for text, words in (("", "no line"), ("[]", "no line"), (LINES[2].replace("4500", "-1"), "not finite")):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_log_timing(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_log_timing(tmp_path / "missing.log")


def test_text_that_is_no_json_stays():
    assert read_log("plain [text]") == "plain [text]"
    assert read_log(as_kaggle(["a\n", "b"])) == "a\nb"


def test_the_range_of_the_estimate():
    estimate = T4Estimate(images=100, side=10, tflop=80.0, host_s=1.0, start_s=30.0, limit_s=1e4)
    fast, slow = 80 / (T4_TFLOPS[1] * T4_COUNT), 80 / (T4_TFLOPS[0] * T4_COUNT)
    assert estimate.range_s() == (30 + 100 * max(fast, 1.0), 30 + 100 * (slow + 1.0))
    assert "ESTIMATE" in estimate.words()[0]


def test_operations_are_counted_for_each_member_view_and_tile(small_package):
    manifest = load_manifest(small_package)

    def tflop(manifest, side=800):
        packages = [(small_package, manifest)]
        return estimate_on_t4(packages, images=1, side=side, start_s=0.0, limit_s=1.0).tflop

    both = tflop(manifest)
    assert tflop(replace(manifest, members=manifest.members[:1])) == pytest.approx(both / 2)
    assert tflop(replace(manifest, views=("identity",))) == pytest.approx(both / 2)
    # 800 px at 0.5 um are 250 at 1.6: 3 x 3 tiles of 128 px whose inner 96 are written; 128 px are a single one.
    assert tflop(manifest, side=409) == pytest.approx(both / 9)


def test_a_plain_convolution_has_the_operations_that_one_counts_by_hand(small_package, monkeypatch):
    from torch import nn

    monkeypatch.setattr("histofold.models.build.build_model", lambda *_: nn.Conv2d(3, 5, 3, padding=1))
    manifest = replace(load_manifest(small_package), views=("identity",))
    manifest = replace(manifest, members=manifest.members[:1])
    estimate = estimate_on_t4([(small_package, manifest)], images=1, side=300, start_s=0.0, limit_s=1.0)
    assert estimate.tflop * 1e12 == pytest.approx(2 * 128 * 128 * 3 * 5 * 9)
    assert estimate.host_s > 0
