"""`histofold check weights|kernel|log`: what goes to Kaggle, and what comes back from it."""

import json
import shutil

import pytest

from histofold.commands.main import main
from histofold.kaggle.submit.client import without_secrets
from histofold.kaggle.submit.explain import CLIENT_WORDS, LOG_WORDS, SUBMISSION_WORDS, explain
from histofold.kaggle.wheel import build_wheel
from histofold.schema.manifest import Member, load_manifest, manifest_json
from small_submission import make_kernel, make_weights


@pytest.fixture
def weights(tmp_path):
    return make_weights(tmp_path / "weights")


def told(capsys, arguments, status):
    """What a check prints, after its exit status."""
    assert main(["check", *map(str, arguments)]) == status
    captured = capsys.readouterr()
    return captured.out + captured.err


def rewrite(weights, **values):
    """Change the manifest's only member."""
    text = json.loads(manifest_json(load_manifest(weights)))
    text["members"][0] |= values
    (weights / "manifest.json").write_text(json.dumps(text))


def test_the_size_is_told_and_what_the_manifest_does_not_name(weights, capsys):
    (weights / "notes.txt").write_bytes(bytes(2_000_000))
    said = told(capsys, ["weights", weights], 0)
    assert "1 members of hubmap_2022, 2.0 MB in 5 files" in said
    assert "notes.txt: the manifest does not name it" in said
    assert "README.md" not in said
    assert "placeholder owner" in said


def test_the_wheel_is_there_if_a_member_needs_it_and_only_then(weights, tmp_path, capsys):
    wheel = build_wheel("segmentation-models-pytorch", tmp_path)
    shutil.copyfile(wheel, weights / wheel.name)
    assert "a wheel that no member needs" in told(capsys, ["weights", weights], 2)
    rewrite(weights, architecture="unet")
    told(capsys, ["weights", weights], 0)
    shutil.copyfile(wheel, weights / "segmentation_models_pytorch-0.0.1-py3-none-any.whl")
    assert "one of several wheels" in told(capsys, ["weights", weights], 2)
    for path in weights.glob("*.whl"):
        path.unlink()
    assert "Kaggle's image lacks the package" in told(capsys, ["weights", weights], 2)
    (weights / "dataset-metadata.json").unlink()
    assert "cannot go to Kaggle" in told(capsys, ["weights", weights], 0), "it predicts here all the same"


def test_faults_of_manifest_and_metadata_come_at_once(weights, capsys):
    (weights / "a_fold0.safetensors").write_bytes(b"other")
    data = json.loads((weights / "dataset-metadata.json").read_text())
    (weights / "dataset-metadata.json").write_text(json.dumps(data | {"title": "short"}))
    said = told(capsys, ["weights", weights], 2)
    assert "SHA-256" in said
    assert "title: dataset-metadata.json" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"enable_internet": false, "enable_internet": true}', "enable_internet: "),
        ("[]", "not an object"),
        ("{", "not JSON"),
        ("\xff", "not JSON"),
    ],
)
def test_metadata_that_kaggle_would_read_otherwise(text, words, tmp_path, capsys):
    folder = make_kernel(tmp_path / "kernel")
    (folder / "kernel-metadata.json").write_bytes(text.encode("latin-1"))
    assert words in told(capsys, ["kernel", folder], 2)


@pytest.mark.parametrize("name", ["hubmap_2022", "kidney_2020"])
def test_the_committed_kernels_pass_with_a_notice_of_the_owner(name, project_root, capsys):
    said = told(capsys, ["kernel", project_root / "kaggle_kernels" / name], 0)
    notices = [line for line in said.splitlines() if line.startswith("notice: ")]
    assert notices
    assert all("placeholder owner" in line for line in notices)


def test_help_names_every_word_of_the_page_of_submissions(capsys):
    assert main(["check", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for entry in SUBMISSION_WORDS:
        assert entry.words in said


def test_a_log_is_explained(tmp_path, capsys):
    path = tmp_path / "kernel.log"
    path.write_text("ModuleNotFoundError: No module named 'segmentation_models_pytorch'\n")
    assert "its wheel is not in the dataset" in told(capsys, ["log", path], 2)
    path.write_text("all is well\n")
    told(capsys, ["log", path], 0)
    assert "check the path" in told(capsys, ["log", tmp_path / "none"], 2)


SAYINGS = {
    "Notebook Threw Exception": "Threw Exception",
    "Notebook Exceeded Allowed Compute": "Exceeded Allowed Compute",
    "Submission CSV Not Found": "CSV Not Found",
    "Submission Scoring Error": "Scoring Error",
    "Notebook Timeout": "Timeout",
    "Notebook timed out": "Timeout",
    "403 Client Error: Forbidden for url: https://api.kaggle.com/v1/x": "403 Forbidden",
    "Permission 'datasets.get' was denied": "403 Forbidden",
    "Authentication required to call the Kaggle API.": "401, authentication required",
    'The requested title "x" is already in use by a dataset.': "already in use",
    "Upload unsuccessful: a.safetensors": "Upload unsuccessful",
    "The following are not valid dataset sources and could not be added": "not valid dataset sources",
    "Maximum batch GPU session count of 2 reached.": "Maximum batch GPU session count",
    "torch.OutOfMemoryError: CUDA out of memory.": "CUDA out of memory",
    "OSError: [Errno 28] No space left on device": "No space left on device",
    "no manifest.json of format histofold/1 and competition hubmap_2022": "no weights, no competition",
    "no sample_submission.csv with the columns id, rle": "no weights, no competition",
    "Weekly GPU quota exceeded": "GPU quota",
    "sh: line 1: 12 Killed": "Killed, MemoryError",
    "Temporary failure in name resolution": "no internet",
}


@pytest.mark.parametrize("saying", SAYINGS)
def test_each_saying_is_known_first_by_its_own_name(saying):
    assert explain(saying)[0].words == SAYINGS[saying]


def test_quiet_texts_are_not_explained():
    quiet = "epoch 3 of 10, loss 0.401, 404 tiles of 429, manifest.json read, SHA-256 checked, predicted all images"
    assert explain(quiet) == []
    entries = [*SUBMISSION_WORDS, *CLIENT_WORDS, *LOG_WORDS]
    assert len({entry.words for entry in entries}) == len(entries)
    assert all(entry.cause and entry.cure for entry in entries)


def test_a_log_in_pieces_is_put_together(tmp_path, capsys):
    pieces = [{"stream_name": "stderr", "time": 1.0, "data": text} for text in ("python: Kil", "led\n")]
    (tmp_path / "kernel.log").write_text(json.dumps(pieces))
    assert "the machine's memory was used up" in told(capsys, ["log", tmp_path / "kernel.log"], 2)


@pytest.mark.parametrize("content", ["{bad", "[1]", "{}", '{"fold": 0}'])
def test_a_broken_record_of_a_fold_is_told_in_words(content, tmp_path, capsys):
    (tmp_path / "run" / "fold0").mkdir(parents=True)
    (tmp_path / "run" / "fold0" / "run.json").write_text(content)
    assert main(["package", str(tmp_path / "run"), "--out", str(tmp_path / "weights")]) == 2
    assert "no record of a finished fold" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["nan", "inf", "0"])
def test_a_share_that_is_no_positive_number_is_refused(share, tmp_path, capsys):
    assert main(["package", str(tmp_path), "--shares", share]) == 2
    assert "positive share" in capsys.readouterr().err
    with pytest.raises(ValueError, match="must be positive and finite"):
        Member(file="a.safetensors", sha256="", architecture="unet", weight=float(share))


@pytest.mark.parametrize("limit", ["nan", "0", "-1", "inf"])
@pytest.mark.parametrize("verb", ["predict", "simulate"])
def test_a_limit_that_is_no_time_is_refused(verb, limit, tmp_path, capsys):
    places = ["--data", str(tmp_path)] * (verb == "predict") + ["--out", str(tmp_path / "o.csv")]
    assert main([verb, "--weights", str(tmp_path), *places, "--limit-s", limit]) == 2
    words = capsys.readouterr().err.replace("\u2502", " ").split()  # it comes in a box
    assert "positive number of seconds" in " ".join(words)


def test_a_kernel_for_an_impossible_dataset_replaces_nothing(tmp_path, capsys):
    assert main(["kernel", "hubmap_2022", "--dataset", "bad", "--out", str(tmp_path)]) == 2
    assert "is no owner/slug" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_struck_out_spares_the_tag_of_a_submission():
    assert without_secrets("the new key: [20261121-101010-abcdef]") == "the new key: [20261121-101010-abcdef]"
    assert "abcdefgh12345678" not in without_secrets('{"key": "abcdefgh12345678"} token=[abcdefgh12345678]')
    assert "secret" not in without_secrets("- proxy: http://me:secret@proxy:3128")
