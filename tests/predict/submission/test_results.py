"""Which files beside the rows are a submission's own, and which of them are whole."""

from histofold.predict.submission.results import ResultRecord


def begun(out, key):
    record = ResultRecord(out)
    record.start(key)
    return record


def test_files_that_a_run_has_begun_stay_its_own_whatever_ended_it(tmp_path):
    out, mask, other = (tmp_path / name for name in ("s.csv", "a.png", "b.png"))
    mask.touch()
    begun(out, "weights 1").claim([mask])  # ended between the file and its record, or by the clock
    again = begun(out, "weights 1")
    assert again.own == {str(mask)}
    assert not again.is_made("a", [mask])
    again.claim([mask])
    again.add("a", [mask])
    assert begun(out, "weights 1").is_made("a", [mask])
    assert not begun(out, "weights 2").is_made("a", [mask])  # ended before it has written it anew
    last = begun(out, "weights 2")
    last.claim([other])
    assert last.own == ResultRecord(out).own == {str(mask), str(other)}
    assert not last.is_made("a", [mask])
