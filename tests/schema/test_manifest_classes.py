"""Classes in the manifest: their names, their networks, their thresholds."""

import pytest

from histofold.schema.manifest import Manifest, Member, joined_thresholds, look_up_thresholds, manifest_json
from histofold.schema.parse import load_json
from histofold.schema.preprocessing import Preprocessing

NAMES = ("gland", "lumen")
TABLE = {"default": 0.5, "lung": 0.4, "lung/HPA": 0.3, "class:lumen": 0.2}


def manifest_of(**changes):
    return Manifest(**{"competition": "folder", "preprocessing": Preprocessing(), "classes": NAMES, **changes})


def test_round_trip(tmp_path):
    member = Member(file="a", sha256="", architecture="unet", arguments={"classes": 2})
    manifest = manifest_of(thresholds=TABLE, members=(member,))
    (tmp_path / "m.json").write_text(manifest_json(manifest))
    assert load_json(Manifest, tmp_path / "m.json") == manifest


@pytest.mark.parametrize(
    ("organ", "source", "expected"),
    [("lung", "HPA", (0.3, 0.2)), ("lung", "X", (0.4, 0.2)), ("heart", "HPA", (0.5, 0.2)), ("", "", (0.5, 0.2))],
)
def test_a_class_goes_before_organ_and_source(organ, source, expected):
    assert look_up_thresholds(TABLE, organ, source, NAMES) == expected
    assert look_up_thresholds(TABLE, organ, source, ("gland",)) == expected[0], "of one class it is a number"


def test_thresholds_of_classes_are_averaged_where_one_package_lacks_them():
    joined = joined_thresholds([{"default": 0.5}, {"default": 0.3, "class:a/b": 0.1, "class:lumen": 0.2}])
    assert joined == pytest.approx({"default": 0.4, "class:a/b": 0.3, "class:lumen": 0.35})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ()}, "at least one mask class"),
        ({"classes": ("gland", "gland")}, "each once"),
        ({"classes": ("gland", "")}, "each once"),
        ({"classes": ("gland", "\ud800")}, "no names in UTF-8"),
        ({"thresholds": {"default": 0.5, "class:nerve": 0.4}}, "class:nerve: known classes are gland, lumen"),
        ({"thresholds": {"default": 0.5, "class:lumen": 1.0}}, "between 0 and 1"),
        (
            {"members": (Member(file="a.safetensors", sha256="", architecture="unet", arguments={"classes": 1}),)},
            "a.safetensors gives 1 classes",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        manifest_of(**changes)
