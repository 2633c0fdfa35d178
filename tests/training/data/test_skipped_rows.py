"""Skipped rows are counted, reported, and too many of them stop the run."""

import json

import pytest

from training.data.skipped_rows import SkipCounter


def test_nothing_skipped():
    counter = SkipCounter()
    counter.add({"num_rows": 300, "skipped": []})
    counter.check(max_share=0)
    assert counter.report() == "0 of 300 rows skipped"


def test_report_lists_reasons_by_count():
    counter = SkipCounter()
    counter.add({"num_rows": 100, "skipped": [("a:1", "empty_title"), ("a:2", "truncated")]})
    counter.add({"num_rows": 100, "skipped": [("a:3", "truncated")]})
    assert counter.num_skipped == 3
    assert counter.report() == "3 of 200 rows skipped (1.5%): truncated 2, empty_title 1"


def test_too_many_stop_the_run_but_not_before_enough_rows_were_seen():
    counter = SkipCounter()
    counter.add({"num_rows": 199, "skipped": [(f"a:{i}", "truncated") for i in range(11)]})
    counter.check()
    with pytest.raises(ValueError, match="11 of 199 rows skipped"):
        counter.check(min_rows=1)
    counter.add({"num_rows": 1, "skipped": []})  # 11 of 200 are 5.5 %
    with pytest.raises(ValueError, match=r"truncated 11, which is more than the 5.0% allowed.*a:0, a:1, a:2\. Mend"):
        counter.check()
    counter.check(max_share=0.055)


def test_counts_survive_a_checkpoint_and_add_up_over_ranks():
    first, second = SkipCounter(), SkipCounter()
    first.add({"num_rows": 10, "skipped": [("a:1", "truncated")]})
    second.add({"num_rows": 5, "skipped": [("a:2", "truncated"), ("a:3", "missing")]})
    first.merge(json.loads(json.dumps(second.state_dict())))
    assert first.report() == "3 of 15 rows skipped (20.0%): truncated 2, missing 1"
    assert first.first_row_ids == {"truncated": ["a:1", "a:2"], "missing": ["a:3"]}
