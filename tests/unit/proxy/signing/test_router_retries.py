"""When a job that failed is tried again, and at whose expense, as the router's transcripts."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.base.errors import SigningReason
from proxy.signing.dispatch import RETRY_BURST
from tests.support.play import Outcome, RouterPlay

R = SigningReason
NO_EJECTION: dict[str, Any] = {"eject_after": 1000, "eject_volume": 1000}


def test_after_all_nodes_failed_the_job_rests_longer_each_round_and_gives_up() -> None:
    play = RouterPlay(["a", "b"], max_attempts=5, retry_backoff_s=0.05)
    play.job(at=0.0).sends_to("a")
    play.error("a", R.NODE_ERROR, at=0.0).sends_to("b")
    play.error("b", R.NODE_ERROR, at=0.0).waits()
    play.time(at=0.05).sends_to("a")
    play.error("a", R.NODE_ERROR, at=0.05).sends_to("b")
    play.error("b", R.NODE_ERROR, at=0.05).waits()
    play.time(at=0.15).sends_to("a")
    play.error("a", R.NODE_ERROR, at=0.15).fails(R.NODE_ERROR).nothing()


def test_a_resting_job_takes_a_node_that_comes_back() -> None:
    play = RouterPlay(["a", "b"])
    play.lose("b", at=0.0)
    play.job(at=0.0).sends_to("a")
    play.error("a", R.NODE_ERROR, at=0.0).waits()
    play.up("b", at=0.01).sends_to("b")


def spend_retries(play: RouterPlay, *, at: float) -> Outcome:
    """Failures that are made good by the other node, until retries have used up their share; the last one."""
    for _ in range(200):
        play.proven("a", at=at)
        play.job(at=at).sends_to("a")
        outcome = play.error("a", R.NODE_ERROR, at=at)
        if play.router.waiting:
            return outcome
        outcome.sends_to("b")
        play.reply("b", at=at).finishes(by="b")
    raise AssertionError("retries have no bound")


def test_a_retry_beyond_its_share_rests_until_other_jobs_have_earned_it() -> None:
    play = RouterPlay(["a", "b"], routing=NO_EJECTION, retry_backoff_s=0.05)
    spend_retries(play, at=1.0).delays().waits()
    assert RETRY_BURST <= len(play.jobs) - 1 <= RETRY_BURST * 1.3
    play.time(at=1.05).waits()
    for _ in range(5):
        play.proven("a", at=1.06)
        play.job(at=1.06).sends_to("a")
        play.reply("a", at=1.07).finishes(by="a")
    play.time(at=1.1).sends_to("b")
    play.reply("b", at=1.15).finishes(by="b")


def test_jobs_earn_retries() -> None:
    play = RouterPlay(["a", "b"], routing=NO_EJECTION | {"retry_share": 0.2})
    spend_retries(play, at=1.0).delays()
    play.cancel(-1, at=1.0)
    play.proven("a", at=1.0)
    for _ in range(5):
        play.job(at=1.0).sends_to("a")
        play.reply("a", at=1.0).finishes(by="a")
    play.job(at=1.0).sends_to("a")
    play.error("a", R.NODE_ERROR, at=1.0).sends_to("b")


@pytest.mark.parametrize("reason", [R.BUSY, R.KEY_NOT_FOUND, R.DENIED, R.LINK_LOST, R.DRAINING])
def test_what_costs_the_nodes_nothing_is_no_retry_that_is_paid_for(reason: SigningReason) -> None:
    play = RouterPlay(["a", "b"], routing=NO_EJECTION | {"retry_share": 0.01})
    spend_retries(play, at=1.0).delays()
    play.cancel(-1, at=1.0)
    play.proven("a", at=1.0)
    play.job(at=1.0).sends_to("a")
    play.error("a", reason, at=1.0).sends_to("b")


def test_a_job_at_its_deadline_spends_no_retry_and_pushes_nobody_out_of_the_queue() -> None:
    changes: dict[str, Any] = {"max_waiting_jobs": 1, "retry_backoff_s": 1.0}
    play = RouterPlay(["a", "b"], routing=NO_EJECTION | {"retry_share": 0.01}, **changes)
    spend_retries(play, at=1.0).delays()
    play.proven("a", at=1.0)
    play.job(at=1.0, deadline=1.5).sends_to("a")
    play.timeout("a", at=1.5).fails(R.DEADLINE, job=-1).nothing()


def test_a_job_that_fails_while_stopping_does_not_wait_for_a_retry_either() -> None:
    play = RouterPlay(["a", "b"], routing=NO_EJECTION | {"retry_share": 0.01})
    spend_retries(play, at=1.0).delays()
    play.cancel(-1, at=1.0)
    play.proven("a", at=1.0)
    play.job(at=1.0).sends_to("a")
    play.stop().nothing()
    play.error("a", R.NODE_ERROR, at=1.0).fails(R.STOPPED)


def test_a_job_that_owes_a_retry_fails_when_its_key_is_gone() -> None:
    play = RouterPlay(["a", "b"], routing=NO_EJECTION | {"retry_share": 0.01}, retry_backoff_s=0.05)
    spend_retries(play, at=1.0).delays()
    play.remove("a", at=1.01).nothing()
    play.remove("b", at=1.02).fails(R.KEY_NOT_FOUND).nothing()
