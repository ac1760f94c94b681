"""The bounded queue, against a list that does the same slowly."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from proxy.signing.waiting import NEVER, SWEEP_FROM, WaitingJobs

A, B = b"a" * 20, b"b" * 20


@dataclass(eq=False)
class Job:
    ski: bytes
    deadline: float
    place: int = 0


def test_ready_jobs_come_in_the_order_of_their_deadlines_among_the_wanted_keys() -> None:
    queue: WaitingJobs[Job] = WaitingJobs(10)
    late, soon, other = Job(A, 3.0), Job(A, 2.0), Job(B, 1.0)
    for job in (late, soon, other):
        queue.add(job)
    assert queue.first_ready(lambda _ski: True) is other
    assert queue.first_ready(lambda ski: ski == A) is soon
    queue.remove(soon)
    assert queue.first_ready(lambda ski: ski == A) is late
    assert queue.first_ready(lambda _ski: False) is None


def test_a_rest_ends_at_its_time_or_at_the_deadline() -> None:
    queue: WaitingJobs[Job] = WaitingJobs(10)
    rested, dying = Job(A, 9.0), Job(A, 2.0)
    queue.add(rested, rest_until=3.0)
    queue.add(dying, rest_until=5.0)
    assert queue.next_time() == 2.0
    assert not queue.has_ready()
    assert list(queue.take_rested(2.5)) == [dying]
    assert list(queue.take_rested(3.0)) == [rested]
    assert (len(queue), queue.next_time()) == (0, NEVER)


def test_expired_jobs_are_taken_out() -> None:
    queue: WaitingJobs[Job] = WaitingJobs(10)
    jobs = [Job(A, 1.0), Job(B, 2.0), Job(A, 3.0)]
    for job in jobs:
        queue.add(job)
    assert list(queue.take_expired(2.0)) == jobs[:2]
    assert len(queue) == 1


def test_it_is_full_at_its_limit() -> None:
    queue: WaitingJobs[Job] = WaitingJobs(2)
    job = Job(A, 1.0)
    queue.add(job)
    queue.add(Job(A, 1.0), rest_until=0.5)
    assert queue.is_full
    queue.remove(job)
    queue.remove(job)
    assert not queue.is_full


def test_jobs_that_left_do_not_fill_memory() -> None:
    queue: WaitingJobs[Job] = WaitingJobs(100)
    for number in range(10_000):
        job = Job(A if number % 2 else B, float(number))
        queue.add(job, rest_until=float(number) if number % 3 else 0.0)
        queue.remove(job)
    entries = len(queue._resting) + sum(len(heap) for heap in queue._ready.values())
    assert entries <= SWEEP_FROM + 1
    assert len(queue) == 0


Step = tuple[str, int, float]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ready", "rest", "remove", "time", "wake", "all"]), st.integers(0, 9), st.floats(0, 10)
        )
    )
)
def test_it_holds_what_a_plain_list_would_hold(steps: list[Step]) -> None:
    queue: WaitingJobs[Job] = WaitingJobs(1000)
    held: list[Job] = []
    for what, number, time in steps:
        if what in ("ready", "rest"):
            job = Job(bytes([number]) * 20, time)
            queue.add(job, rest_until=time / 2 if what == "rest" else 0.0)
            held.append(job)
        elif what == "remove" and held:
            queue.remove(held.pop(number % len(held)))
        elif what == "time":
            taken = [*queue.take_expired(time), *queue.take_rested(time)]
            assert all(job.place == 0 for job in taken)
            held = [job for job in held if job not in taken]
            assert queue.next_time() > time
        elif what == "wake":
            taken = queue.take_resting()
            held = [job for job in held if job not in taken]
        elif what == "all":
            assert set(map(id, queue.take_all())) == set(map(id, held))
            held = []
        assert len(queue) == len(held)
        assert all(job.place for job in held)
