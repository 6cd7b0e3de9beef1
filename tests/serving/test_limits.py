"""Claims about rates: a burst, then one request after another, each key for itself, and nothing kept of who is quiet."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from foodray.serving.limiter import LocalLimiter, TokenBuckets


class Clock:
    """A clock that goes when it is told to."""

    now = 1e6

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def buckets(clock: Clock) -> TokenBuckets:
    return TokenBuckets(clock)


def test_a_burst_goes_through_and_the_next_waits_for_one_token(buckets: TokenBuckets) -> None:
    assert [buckets.take("a", 60, 5) for _ in range(5)] == [0.0] * 5
    assert buckets.take("a", 60, 5) == pytest.approx(1.0)


def test_who_waits_as_long_as_told_goes_through(buckets: TokenBuckets, clock: Clock) -> None:
    for _ in range(200):
        if wait := buckets.take("a", 77, 3):
            clock.now += wait
            assert buckets.take("a", 77, 3) == 0.0


def test_a_refused_request_costs_nothing(buckets: TokenBuckets, clock: Clock) -> None:
    buckets.take("a", 60, 1)
    assert {buckets.take("a", 60, 1) > 0 for _ in range(1000)} == {True}
    clock.now += 1
    assert buckets.take("a", 60, 1) == 0.0


@pytest.mark.parametrize(("rate", "burst"), [(600.0, 60), (0.5, 1), (59.9, 7), (6000.0, 1)])
def test_over_a_long_time_no_more_than_the_rate_goes_through(buckets: TokenBuckets, clock: Clock, rate: float, burst: int) -> None:
    passed, minutes = 0, 10 * max(1.0, 60 / rate)
    steps = 4000
    for _ in range(steps):
        passed += buckets.take("a", rate, burst) == 0.0
        clock.now += minutes * 60 / steps
    expected = min(steps, burst + rate * minutes)
    assert expected * 0.5 <= passed <= expected + 1


def test_one_key_does_not_spend_anothers_tokens(buckets: TokenBuckets) -> None:
    buckets.take("a", 60, 1)
    assert buckets.take("a", 60, 1) > 0
    assert buckets.take("b", 60, 1) == 0.0


def test_a_rate_that_is_raised_holds_at_once(buckets: TokenBuckets, clock: Clock) -> None:
    for _ in range(60):
        buckets.take("a", 1, 60)
    assert buckets.take("a", 600, 60) <= 0.1 + 1e-6
    clock.now += 0.1
    assert buckets.take("a", 600, 60) == 0.0


def test_a_full_bucket_is_forgotten(buckets: TokenBuckets, clock: Clock) -> None:
    for number in range(100_000):
        buckets.take(f"key {number}", 600, 60)
        clock.now += 0.01  # full again after 0.1 s, so ten are not
    assert len(buckets) <= 2048


def test_a_bucket_that_is_not_full_is_not_forgotten(buckets: TokenBuckets, clock: Clock) -> None:
    buckets.take("a", 0.001, 1)
    for number in range(5000):
        buckets.take(f"key {number}", 600, 60)
        clock.now += 1
    assert buckets.take("a", 0.001, 1) > 0


def test_threads_do_not_share_a_token(buckets: TokenBuckets) -> None:
    with ThreadPoolExecutor(8) as people:
        waits = list(people.map(lambda _: buckets.take("a", 60, 500), range(2000)))
    assert waits.count(0.0) == 500


def test_one_process_counts_alone(clock: Clock) -> None:
    async def ask() -> list[float]:
        limiter = LocalLimiter(TokenBuckets(clock))
        return list(await asyncio.gather(*(limiter.take("a", 60, 2) for _ in range(3))))

    assert asyncio.run(ask()) == [0.0, 0.0, pytest.approx(1.0)]
