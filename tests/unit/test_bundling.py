"""A storm pages people a few times, and each page tells of the rest."""

from __future__ import annotations

from oncall_agent.pipeline.bundling import WINDOW_SECONDS, Bundling, Covered, PageNow, Wait


def test_pages_within_the_rate_go_out_alone():
    desk = Bundling(2)
    assert [desk.admit(name, name, 0.0) for name in "ab"] == [PageNow(), PageNow()]


def test_what_is_beyond_the_rate_waits_and_travels_in_the_next_page():
    desk = Bundling(1)
    desk.admit("a", "first", 0.0)
    assert [desk.admit(name, f"title {name}", 10.0) for name in "bc"] == [Wait(50.0), Wait(50.0)]
    assert desk.admit("d", "next", WINDOW_SECONDS) == PageNow(("title b (b)", "title c (c)"))
    assert [desk.admit(name, name, WINDOW_SECONDS) for name in "bc"] == [Covered(), Covered()]
    assert desk.admit("b", "once more", WINDOW_SECONDS) == Wait(60.0)


def test_the_one_that_waited_does_not_list_itself():
    desk = Bundling(1)
    desk.admit("a", "a", 0.0)
    desk.admit("b", "b", 1.0)
    assert desk.admit("b", "b", 61.0) == PageNow()


def test_a_page_that_did_not_go_out_told_nobody():
    desk = Bundling(1)
    desk.admit("a", "a", 0.0)
    desk.admit("b", "b", 1.0)
    desk.admit("c", "c", 60.0)
    desk.failed(60.0)
    assert desk.admit("b", "b", 60.5) == PageNow()


def test_the_list_in_a_page_is_bounded():
    desk = Bundling(1)
    desk.admit("a", "a", 0.0)
    for number in range(200):
        desk.admit(str(number), "t", 1.0)
    answer = desk.admit("z", "z", 60.0)
    assert isinstance(answer, PageNow)
    assert (len(answer.others), answer.others[-1]) == (51, "and 150 more")
