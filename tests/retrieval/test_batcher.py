"""Cross-request batching: same answers as alone, nothing lost, bounded, on time."""

import asyncio
import random
import threading
import time

import pytest

from retrieval_index.documents import Document
from retrieval_index.serving.batcher import Batcher, DeadlinePassed, Overloaded


class Engine:
    """Finds k documents named after the query; notes every batch; waits when told to."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.fingerprint = "one"

    def search(self, queries, k, mode):
        self.gate.wait(20)
        self.batches.append((list(queries), k, mode))
        if "bad" in queries:
            raise RuntimeError("the disk is gone")
        return [self.expected(query, k, mode) for query in queries]

    def expected(self, query, k, mode):
        return [
            Document(f"{query}-{rank}", self.fingerprint, f"{mode}", 1 / rank)
            for rank in range(1, k + 1)
        ]


def play(scenario, engine, **options):
    """Run `scenario(batcher)` beside the dispatcher."""

    async def main():
        batcher = Batcher(engine.search, lambda: engine.fingerprint, **options)
        dispatcher = asyncio.create_task(batcher.run())
        try:
            return await asyncio.wait_for(scenario(batcher), 60)
        finally:
            engine.gate.set()
            dispatcher.cancel()
            batcher.close()

    return asyncio.run(main())


@pytest.mark.parametrize("cache_bytes", [0, 7_000, 1_000_000])
def test_many_clients_get_what_they_would_get_alone(cache_bytes):
    engine = Engine()

    async def client(batcher, seed):
        rng = random.Random(seed)
        for _ in range(20):
            queries = [f"q{rng.randrange(30)}" for _ in range(rng.randrange(1, 6))]
            k, mode = rng.randrange(1, 5), rng.choice([None, "dense", "hybrid"])
            found = await batcher.ask(queries, k, mode, 30)
            assert found == [engine.expected(query, k, mode) for query in queries]

    async def scenario(batcher):
        await asyncio.gather(*(client(batcher, seed) for seed in range(40)))
        counts = batcher.counts
        assert counts.queries == counts.cached + counts.joined + counts.searched
        assert batcher.waiting == 0

    play(scenario, engine, cache_bytes=cache_bytes, max_batch=16)
    assert max(len(queries) for queries, _, _ in engine.batches) <= 16
    assert all(len(set(queries)) == len(queries) for queries, _, _ in engine.batches)


def test_what_arrives_during_a_search_makes_up_the_next_batch():
    engine = Engine()
    engine.gate.clear()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.ask(["first"], 1, None, 30))
        while batcher.counts.batches == 0:
            await asyncio.sleep(0.001)
        later = [asyncio.create_task(batcher.ask([f"q{n}"], 1, None, 30)) for n in range(50)]
        await asyncio.sleep(0.01)
        engine.gate.set()
        await asyncio.gather(first, *later)

    play(scenario, engine)
    assert [len(queries) for queries, _, _ in engine.batches] == [1, 50]


def test_equal_queries_are_searched_once():
    engine = Engine()
    engine.gate.clear()

    async def scenario(batcher):
        asked = [asyncio.create_task(batcher.ask(["same", "same"], 2, None, 30)) for _ in range(9)]
        await asyncio.sleep(0.01)
        engine.gate.set()
        answers = await asyncio.gather(*asked)
        assert all(answer == answers[0] for answer in answers)
        await batcher.ask(["same"], 2, None, 30)

    play(scenario, engine)
    assert engine.batches == [(["same"], 2, None)]


def test_a_new_index_is_never_answered_from_the_old_ones_results():
    engine = Engine()

    async def scenario(batcher):
        [[old]] = await batcher.ask(["x"], 1, None, 30)
        engine.fingerprint = "two"
        [[new]] = await batcher.ask(["x"], 1, None, 30)
        assert (old.title, new.title) == ("one", "two")

    play(scenario, engine)


def test_a_full_queue_is_refused_and_the_rest_is_answered():
    engine = Engine()
    engine.gate.clear()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.ask(["first"], 1, None, 30))
        while batcher.counts.batches == 0:
            await asyncio.sleep(0.001)
        accepted = asyncio.create_task(batcher.ask(["a", "b", "c"], 1, None, 30))
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="3 queries wait already, of at most 4"):
            await batcher.ask(["d", "e"], 1, None, 30)
        joined = asyncio.create_task(batcher.ask(["a"], 1, None, 30))  # waits already: no new place
        await asyncio.sleep(0.01)
        engine.gate.set()
        assert len(await accepted) == 3
        assert (await joined)[0][0].id == "a-1"
        await first

    play(scenario, engine, max_waiting=4)


def test_a_late_answer_is_an_error_for_those_who_could_not_wait_only():
    engine = Engine()
    engine.gate.clear()

    async def scenario(batcher):
        patient = asyncio.create_task(batcher.ask(["x"], 1, None, 30))
        await asyncio.sleep(0.01)
        with pytest.raises(DeadlinePassed, match=r"no answer within 0.05 s"):
            await batcher.ask(["x"], 1, None, 0.05)
        engine.gate.set()
        assert (await patient)[0][0].id == "x-1"

    play(scenario, engine)


def test_queries_that_nobody_waits_for_are_not_searched():
    engine = Engine()
    engine.gate.clear()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.ask(["first"], 1, None, 30))
        while batcher.counts.batches == 0:
            await asyncio.sleep(0.001)
        with pytest.raises(DeadlinePassed):
            await batcher.ask(["forgotten"], 1, None, 0.02)
        time.sleep(0.01)
        engine.gate.set()
        await first
        assert (await batcher.ask(["last"], 1, None, 30))[0][0].id == "last-1"
        assert batcher.counts.expired == 1
        assert (await batcher.ask(["forgotten"], 1, None, 30))[0][0].id == "forgotten-1"

    play(scenario, engine)
    assert [queries for queries, _, _ in engine.batches] == [["first"], ["last"], ["forgotten"]]


def test_a_failing_search_fails_its_batch_and_no_other():
    engine = Engine()

    async def scenario(batcher):
        with pytest.raises(RuntimeError, match="the disk is gone"):
            await batcher.ask(["bad"], 1, None, 30)
        assert (await batcher.ask(["good"], 1, None, 30))[0][0].id == "good-1"
        with pytest.raises(RuntimeError):  # and a failure is not remembered as a result
            await batcher.ask(["bad"], 1, None, 30)

    play(scenario, engine)
