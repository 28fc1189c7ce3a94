"""`benchmarks.speed`: what is shown together was measured together."""

from benchmarks.speed.rows import keep_details


def test_calls_of_an_earlier_run_do_not_stay_beside_a_new_inference(tmp_path):
    first = {"a": {"inference": {"cpu": 1.0}, "whole/live-4": {"cpu": 4.0}}}
    other = {"b": {"inference": {"cpu": 2.0}}}
    again = {"a": {"inference": {"cpu": 3.0}, "whole/default": {"cpu": 5.0}}}
    assert keep_details(first, tmp_path) == first
    assert keep_details(other, tmp_path) == first | other
    assert keep_details(again, tmp_path) == again | other
    assert keep_details({}, tmp_path) == again | other
