"""Load against counts."""

import asyncio
import random

import pytest

from jobs.benchmark import load
from jobs.benchmark.load import CellLimit, Level, Run
from jobs.benchmark.timing import Failure, Timing
from tests.unit.jobs.benchmark.test_figures import done


def test_a_closed_loop_has_as_many_requests_under_way_as_users_and_no_more():
    under_way = most = 0

    async def send() -> Timing:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.002)
        under_way -= 1
        return done(0.0, 1.0)

    told = []
    run = Run(send, CellLimit(requests=20), lambda run: told.append(len(run.timings)))
    asyncio.run(run.go(Level(concurrency=4), random.Random(0)))
    assert (run.sent, len(run.timings), most, run.cut) == (20, 20, 4, 0)
    assert told == list(range(1, 21))
    assert run.lags and run.cpu_share > 0


def test_an_open_loop_sends_without_waiting_for_answers():
    answered = asyncio.Event()

    async def send() -> Timing:
        if run.sent == 30:
            answered.set()
        await answered.wait()
        return done(0.0, 1.0)

    run = Run(send, CellLimit(requests=30))
    asyncio.run(asyncio.wait_for(run.go(Level(request_rate=5000), random.Random(0)), 10))
    assert (run.sent, len(run.timings)) == (30, 30)


def test_a_load_for_some_time_sends_nothing_after_it_and_waits_for_the_rest():
    async def send() -> Timing:
        await asyncio.sleep(0.4)
        return done(0.0, 1.0)

    run = Run(send, CellLimit(duration_s=0.3))
    asyncio.run(run.go(Level(concurrency=3), random.Random(0)))
    assert (run.sent, len(run.timings)) == (3, 3)


def test_an_interrupted_load_keeps_what_it_has_and_ends_what_is_under_way():
    ended = []

    async def send() -> Timing:
        if run.sent <= 2:
            return done(0.0, 1.0)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def main() -> None:
        going = asyncio.create_task(run.go(Level(concurrency=4), random.Random(0)))
        while run.sent < 6:
            await asyncio.sleep(0)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going

    run = Run(send, CellLimit(requests=100))
    asyncio.run(main())
    assert (run.sent, len(run.timings), run.cut, len(ended)) == (6, 2, 4, 4)


def test_a_load_gives_up_when_nobody_listens_any_more(monkeypatch):
    monkeypatch.setattr(load, "AFTER_FAILURE_S", 0)

    async def send() -> Timing:
        return done(0.0, 1.0) if run.sent <= 3 else Timing(0.0, failure=Failure("connection", "refused"))

    run = Run(send, CellLimit(requests=100))
    asyncio.run(run.go(Level(concurrency=1), random.Random(0)))
    assert run.lost and run.sent == 3 + load.GIVE_UP_AFTER
