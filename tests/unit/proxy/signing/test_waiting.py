"""The bounded, fair queue, against a list that does the same slowly."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random
from statistics import mean

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.signing.waiting import NEVER, PACE_MEMORY_S, STOPPED_S, SWEEP_FROM, WaitingJobs

A, B = b"a" * 20, b"b" * 20


@dataclass(eq=False)
class Job:
    ski: bytes
    deadline: float
    site: str = "x"
    place: int = 0


Queue = WaitingJobs[Job]


def add(queue: Queue, count: int, site: str = "x", ski: bytes = A, deadline: float = 1e6) -> list[Job]:
    jobs = [Job(ski, deadline + number, site) for number in range(count)]
    for job in jobs:
        queue.add(job)
    return jobs


def take(queue: Queue, now: float = 0.0, but: str = "") -> Job | None:
    """Give one job to a node, as the router does; keys of the site `but` are not wanted."""
    job = queue.first_ready(lambda ski: ski != but.encode())
    if job is not None:
        queue.remove(job)
        queue.served(job, now)
    return job


def any_key(_ski: bytes) -> bool:
    return True


def test_ready_jobs_come_in_the_order_of_their_deadlines_among_the_wanted_keys() -> None:
    queue: Queue = WaitingJobs(10)
    late, soon, other = Job(A, 3.0), Job(A, 2.0), Job(B, 1.0)
    for job in (late, soon, other):
        queue.add(job)
    assert queue.first_ready(any_key) is other
    assert queue.first_ready(lambda ski: ski == A) is soon
    queue.remove(soon)
    assert queue.first_ready(lambda ski: ski == A) is late
    assert queue.first_ready(lambda _ski: False) is None


def test_a_line_that_goes_on_after_a_stop_is_believed_within_a_few_jobs() -> None:
    queue: Queue = WaitingJobs(100)
    jobs = [Job(A, 1000.0) for _ in range(30)]
    for job in jobs:
        queue.add(job)
    now = 0.0
    for took_s, count in ((1.0, 10), (0.01, 8)):
        for _ in range(count):
            now += took_s
            job = jobs.pop()
            queue.remove(job)
            queue.served(job, now)
        if took_s == 1.0:
            assert queue.rate_per_s(job.site, now) < 2
    assert queue.rate_per_s(jobs[0].site, now) > 30


@pytest.mark.parametrize("burst", [1, 20])
def test_a_pace_is_neither_too_quick_nor_too_slow_when_jobs_leave_at_random_or_in_bursts(burst: int) -> None:
    queue: Queue = WaitingJobs(10_000)
    add(queue, 9000)
    rng, now, waits = Random(1), 100.0, []
    for _ in range(8000 // burst):
        now += rng.expovariate(1000.0 / burst)
        for _ in range(burst):
            take(queue, now)
        waits.append(queue.expected_wait_s("x", now) / (len(queue) + 1))
    assert mean(waits[len(waits) // 4 :]) == pytest.approx(0.001, rel=0.25)


def test_a_line_that_goes_on_after_one_stop_has_the_pace_of_before() -> None:
    queue: Queue = WaitingJobs(1000)
    add(queue, 500)
    now = drain(queue, 200, 0.001, 100.0)
    now = drain(queue, 1, 1.5, now)
    assert queue.rate_per_s("x", now) == pytest.approx(1000.0)
    now = drain(queue, 100, 0.2, now)
    assert queue.rate_per_s("x", now) == pytest.approx(5.0, rel=0.05)


def test_a_line_has_not_stopped_before_an_answer_could_have_come() -> None:
    queue: Queue = WaitingJobs(100)
    for _ in range(20):
        queue.add(Job(A, 1000.0))
    (site,) = queue.sites()
    queue.set_patience(site, 2.0)
    assert queue.expected_wait_s(site, 100.0) == 0.0
    assert queue.expected_wait_s(site, 101.9) == 0.0
    assert queue.expected_wait_s(site, 102.1) > 2.0
    queue.set_patience(site, NEVER)
    assert queue.expected_wait_s(site, 200.0) == 0.0


def test_the_time_to_look_is_exact_again_after_a_look() -> None:
    queue: Queue = WaitingJobs(10)
    early, late = Job(A, 2.0), Job(A, 9.0)
    queue.add(early)
    queue.add(late)
    queue.remove(early)
    assert queue.next_time() <= 9.0
    assert list(queue.take_expired(2.5)) == []
    assert queue.next_time() == 9.0


def test_a_rest_ends_at_its_time_or_at_the_deadline() -> None:
    queue: Queue = WaitingJobs(10)
    rested, dying = Job(A, 9.0), Job(A, 2.0)
    queue.add(rested, rest_until=3.0)
    queue.add(dying, rest_until=5.0)
    assert queue.next_time() == 2.0
    assert not queue.has_ready()
    assert list(queue.take_rested(2.5)) == [dying]
    assert list(queue.take_rested(3.0)) == [rested]
    assert (len(queue), queue.next_time()) == (0, NEVER)


def test_it_is_full_at_its_limit() -> None:
    queue: Queue = WaitingJobs(2)
    job = Job(A, 1.0)
    queue.add(job)
    queue.add(Job(A, 1.0), rest_until=0.5)
    assert queue.is_full
    queue.remove(job)
    queue.remove(job)
    assert not queue.is_full


def test_jobs_that_left_do_not_fill_memory() -> None:
    queue: Queue = WaitingJobs(100)
    for number in range(10_000):
        job = Job(A if number % 2 else B, float(number))
        queue.add(job, rest_until=float(number) if number % 3 else 0.0)
        queue.remove(job)
    entries = len(queue._resting) + sum(len(heap) for line in queue._lines.values() for heap in line.heaps.values())
    assert entries <= SWEEP_FROM + 1
    assert len(queue) == 0


@pytest.mark.parametrize("weights", [{}, {"x": 3.0}, {"x": 0.5, "y": 2.0}])
def test_backlogged_sites_take_turns_by_weight_whatever_their_backlog(weights: dict[str, float]) -> None:
    queue: Queue = WaitingJobs(10_000, weights)
    for site, count in (("x", 1000), ("y", 2000), ("z", 5000)):
        add(queue, count, site)
    for _ in range(600):
        take(queue)
    served = Counter(dict.fromkeys("xyz", 0))
    for _ in range(600):
        served[str(getattr(take(queue), "site", ""))] += 1
    total = sum(weights.get(site, 1.0) for site in "xyz")
    for site in "xyz":
        assert served[site] == pytest.approx(600 * weights.get(site, 1.0) / total, abs=4)


def test_a_flood_of_one_site_does_not_delay_another() -> None:
    queue: Queue = WaitingJobs(10_000)
    add(queue, 5000, "flood", deadline=1.0)
    for _ in range(1000):
        take(queue)
    (job,) = add(queue, 1, "quiet")
    assert job in [take(queue) for _ in range(2)]


def test_who_comes_back_does_not_collect_what_was_not_used() -> None:
    queue: Queue = WaitingJobs(10_000)
    add(queue, 1, "y")
    add(queue, 3000, "x")
    for _ in range(1000):
        take(queue)
    add(queue, 1000, "y")
    served = Counter(str(getattr(take(queue), "site", "")) for _ in range(100))
    assert abs(served["x"] - served["y"]) <= 2


def test_a_site_whose_nodes_were_full_does_not_go_before_all_others_afterwards() -> None:
    queue: Queue = WaitingJobs(10_000)
    add(queue, 2000, "hung", b"hung")
    add(queue, 2000, "good", b"good")
    assert {getattr(take(queue, but="hung"), "site", "") for _ in range(1000)} == {"good"}
    served = Counter(str(getattr(take(queue), "site", "")) for _ in range(100))
    assert abs(served["hung"] - served["good"]) <= 2


def drain(queue: Queue, count: int, every_s: float, now: float) -> float:
    for _ in range(count):
        now += every_s
        take(queue, now)
    return now


def test_the_expected_wait_is_that_of_the_site_at_its_pace() -> None:
    queue: Queue = WaitingJobs(1000)
    add(queue, 150, "x")
    assert queue.expected_wait_s("x", 0.0) == 0.0
    now = drain(queue, 50, 0.01, 100.0)
    assert queue.expected_wait_s("x", now) == pytest.approx(101 * 0.01)
    assert queue.expected_wait_s("other", now) == 0.0


def test_a_line_that_has_stopped_is_expected_to_be_slower() -> None:
    queue: Queue = WaitingJobs(1000)
    add(queue, 150, "x")
    now = drain(queue, 50, 0.01, 100.0)
    waits = [queue.expected_wait_s("x", now + since) for since in (0.0, 0.1, 1.0, 10.0)]
    assert waits == sorted(waits)
    assert waits[-1] > 100 * waits[0]


@pytest.mark.parametrize(("after_s", "expected_s"), [(PACE_MEMORY_S / 2, 10 * 0.5), (PACE_MEMORY_S, 0.0)])
def test_a_pace_outlives_an_empty_line_but_not_for_long(after_s: float, expected_s: float) -> None:
    queue: Queue = WaitingJobs(1000)
    add(queue, 20, "x")
    now = drain(queue, 20, 0.5, 100.0) + after_s
    add(queue, 9, "x")
    assert queue.expected_wait_s("x", now) == pytest.approx(expected_s)
    assert queue.rate_per_s("x", now) == pytest.approx(10 / expected_s if expected_s else 0.0)


def test_a_pace_before_a_long_stop_is_forgotten() -> None:
    queue: Queue = WaitingJobs(1000)
    add(queue, 30, "x")
    now = drain(queue, 20, 0.5, 100.0) + 100.0
    take(queue, now)
    assert queue.expected_wait_s("x", now) == 0.0


def test_a_line_that_never_moved_is_as_slow_as_it_is_old() -> None:
    queue: Queue = WaitingJobs(1000)
    add(queue, 9, "x")
    waits = [queue.expected_wait_s("x", 100.0 + since_s) for since_s in (0.0, STOPPED_S / 2, STOPPED_S * 2)]
    assert waits == pytest.approx([0.0, 0.0, 10 * STOPPED_S * 2])
    assert queue.sites() == ["x"]
    assert queue.rate_per_s("other", 100.0) == queue.expected_wait_s("other", 100.0) == 0.0


def test_times_without_a_line_are_no_pace() -> None:
    queue: Queue = WaitingJobs(1000)
    now = 100.0
    for _ in range(20):
        add(queue, 2, "x")
        now = drain(queue, 2, 0.01, now + 1.0)
    add(queue, 9, "x")
    assert queue.expected_wait_s("x", now) == pytest.approx(10 * 0.01)


def test_new_keys_in_line_are_told_of() -> None:
    queue: Queue = WaitingJobs(1000)
    (first,) = add(queue, 1, "x", A)
    seen = queue.joined
    add(queue, 5, "x", A)
    assert (queue.joined, queue.ready_keys()) == (seen, {A})
    add(queue, 1, "x", B)
    assert queue.joined > seen
    assert queue.ready_keys() == {A, B}
    while take(queue):
        pass
    assert queue.ready_keys() == set()
    seen = queue.joined
    add(queue, 1, "x", A)
    assert queue.joined > seen
    assert not first.place


def test_the_cost_of_a_turn_does_not_grow_with_the_sites_in_line() -> None:
    asked: list[bytes] = []
    queue: Queue = WaitingJobs(10_000)
    for number in range(500):
        add(queue, 3, f"site-{number}", number.to_bytes(20, "big"))
    for _ in range(100):
        job = queue.first_ready(lambda ski: not asked.append(ski))  # type: ignore[func-returns-value]
        assert job is not None
        queue.remove(job)
        queue.served(job, 1.0)
    assert len(asked) == len(set(asked)) == 100


def test_expired_jobs_of_many_sites_come_in_the_order_of_their_deadlines_and_leave_nothing_behind() -> None:
    queue: Queue = WaitingJobs(10_000)
    jobs = [job for number in range(200) for job in add(queue, 3, f"site-{number}", deadline=float(number % 7))]
    for job in jobs[::2]:
        queue.remove(job)
    assert queue.next_time() == 0.0
    expired = list(queue.take_expired(4.5))
    assert sorted(map(id, expired)) == sorted(id(job) for job in jobs[1::2] if job.deadline <= 4.5)
    assert [job.deadline for job in expired] == sorted(job.deadline for job in expired)
    assert queue.next_time() == min(job.deadline for job in jobs[1::2] if job.place)


def test_a_late_job_of_the_site_with_most_by_weight_goes() -> None:
    queue: Queue = WaitingJobs(1000, {"big": 10.0})
    big, small = add(queue, 50, "big"), add(queue, 20, "small")
    victim = queue.newest_of_longest("other")
    assert victim in small[10:]
    assert queue.newest_of_longest("big") in small[10:]
    assert queue.newest_of_longest("small") is None
    assert all(job.place for job in big + small), "it is only named, not taken out"


def test_jobs_that_rest_count_too_so_that_a_site_without_nodes_cannot_fill_the_queue() -> None:
    queue: Queue = WaitingJobs(100)
    resting = [Job(A, 1e6, "down") for _ in range(90)]
    for number, job in enumerate(resting):
        queue.add(job, rest_until=10.0 + number)
    ready = add(queue, 10, "good", B)
    assert queue.newest_of_longest("good") in resting[20:]
    assert queue.newest_of_longest("down") is None
    for job in resting:
        queue.remove(job)
    assert queue.newest_of_longest("down") in ready


class QueueMachine(RuleBasedStateMachine):
    """Whatever happens, the queue holds what a plain list would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: Queue = WaitingJobs(30, {"x": 2.0})
        self.ready: list[Job] = []
        self.resting: list[tuple[float, Job]] = []
        self.now = 10.0

    @property
    def held(self) -> list[Job]:
        return self.ready + [job for _, job in self.resting]

    def forget(self, gone: list[Job]) -> None:
        assert len(set(map(id, gone))) == len(gone)
        assert all(job in self.held for job in gone)
        assert not any(job.place for job in gone)
        self.ready = [job for job in self.ready if job not in gone]
        self.resting = [(until, job) for until, job in self.resting if job not in gone]

    @rule(
        site=st.sampled_from("xyz"), ski=st.sampled_from([A, B]), span=st.floats(0, 9), rest=st.floats(0, 9) | st.none()
    )
    def add(self, site: str, ski: bytes, span: float, rest: float | None) -> None:
        job = Job(ski, self.now + span, site)
        if self.queue.is_full:
            self.make_room(site)
        if self.queue.is_full:
            return
        if rest is None:
            self.queue.add(job)
            self.ready.append(job)
        else:
            self.queue.add(job, rest_until=self.now + rest)
            self.resting.append((min(self.now + rest, job.deadline), job))

    def make_room(self, site: str) -> None:
        need = dict.fromkeys("xyz", 0.0)
        for job in self.held:
            need[job.site] += 0.5 if job.site == "x" else 1.0
        victim = self.queue.newest_of_longest(site)
        assert (victim is None) is (need[site] >= max(need.values()))
        if victim is not None:
            assert need[victim.site] == max(need.values())
            self.queue.remove(victim)
            self.forget([victim])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.held))
        self.queue.remove(job)
        self.forget([job])

    @rule(wanted=st.sampled_from([A + B, A, B]))
    def serve(self, wanted: bytes) -> None:
        job = self.queue.first_ready(lambda ski: ski in wanted)
        rivals = [each for each in self.ready if each.ski in wanted]
        assert (job is None) is (not rivals)
        if job is not None:
            assert job.deadline == min(each.deadline for each in rivals if each.site == job.site)
            self.queue.remove(job)
            self.queue.served(job, self.now)
            self.forget([job])

    @rule(span=st.floats(0, 5))
    def wait(self, span: float) -> None:
        self.now += span
        due = [job for job in self.ready if job.deadline <= self.now]
        rested = [job for until, job in self.resting if until <= self.now]
        expired = list(self.queue.take_expired(self.now))
        assert set(map(id, expired)) == set(map(id, due))
        woken = list(self.queue.take_rested(self.now))
        assert set(map(id, woken)) == set(map(id, rested))
        self.forget(expired + woken)

    @rule()
    def wake(self) -> None:
        woken = self.queue.take_resting()
        assert set(map(id, woken)) == {id(job) for _, job in self.resting}
        self.forget(woken)

    @rule(ski=st.sampled_from([A, B, None]))
    def take(self, ski: bytes | None) -> None:
        wanted = self.held if ski is None else [job for job in self.ready if job.ski == ski]
        taken = self.queue.take_all() if ski is None else self.queue.take_ready(lambda each: each == ski)
        assert set(map(id, taken)) == set(map(id, wanted))
        self.forget(taken)

    @invariant()
    def counts_and_times_agree(self) -> None:
        assert len(self.queue) == len(self.held) <= 30
        assert all(job.place for job in self.held)
        assert self.queue.has_ready() is bool(self.ready)
        times = [job.deadline for job in self.ready] + [until for until, _ in self.resting]
        # Never too late; that a job has left is found out when its time comes, and then all is exact again.
        assert self.queue.next_time() <= min(times, default=NEVER)
        assert (self.queue.next_time() == NEVER) is not bool(times)
        assert all(self.queue.expected_wait_s(site, self.now) >= 0 for site in "xyz")


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
