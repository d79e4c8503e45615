"""Blocks of the KV cache: what sequences share, what windows give back, and that none is ever lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from serve.engine.native.kv_cache import BLOCK_SIZE, NO_BLOCK, BlockPool, KvCache
from serve.engine.native.sequence import Sequence
from serve.engine.protocol import GenerationRequest
from serve.engine.sampling import Sampler, SamplingParams

WINDOW = 64


def sequence(ids: list[int], adapter: str | None = None) -> Sequence:
    request = GenerationRequest("one", ids, adapter=adapter)
    return Sequence(request, None, 1000, Sampler(SamplingParams(), ids))


def compute(cache: KvCache, one: Sequence, tokens: int) -> None:
    assert cache.extend(one, one.computed + tokens)
    one.computed += tokens
    cache.settle(one)


def computed(cache: KvCache, ids: list[int], adapter: str | None = None, chunk: int = 50) -> Sequence:
    one = sequence(ids, adapter)
    cache.admit(one)
    while one.pending:
        compute(cache, one, min(chunk, one.pending))
    return one


def held(one: Sequence) -> list[int]:
    return [block for table in one.tables for block in table if block != NO_BLOCK]


@pytest.fixture
def cache():
    return KvCache(100, (WINDOW, None))


def test_blocks_are_taken_in_the_order_in_which_they_were_released_nameless_ones_first():
    pool = BlockPool(5)
    first, second, third, fourth = (pool.take() for _ in range(4))
    pool.publish(second, (0, b"second"))
    for block in (second, third, first, fourth):
        pool.release(block)
    assert [pool.take() for _ in range(3)] == [fourth, first, third]
    assert pool.find((0, b"second")) == second
    assert pool.take() == second
    assert pool.find((0, b"second")) is None
    with pytest.raises(KeyError):
        pool.take()


def test_a_sequence_finds_the_blocks_of_one_that_began_alike_and_computes_at_least_its_last_token(cache):
    first = computed(cache, list(range(100)))
    second = sequence(list(range(96)) + [7, 8, 9])
    cache.admit(second)
    assert second.computed == 96
    assert second.tables[1] == first.tables[1][:6]
    same = sequence(list(range(96)))
    cache.admit(same)
    assert same.computed == 96 - BLOCK_SIZE, "one token is left, so the block that holds it is computed again"


def test_an_adapter_shares_nothing_with_the_base_or_another_adapter(cache):
    computed(cache, list(range(100)), adapter="a")
    for adapter, found in (("a", 96), ("b", 0), (None, 0)):
        one = sequence(list(range(100)), adapter)
        cache.admit(one)
        assert one.computed == found
        cache.release(one)


def test_a_window_gives_back_what_no_later_query_sees(cache):
    one = computed(cache, list(range(320)))
    sliding, full = one.tables
    assert NO_BLOCK not in full
    seen = (320 - WINDOW + 1) // BLOCK_SIZE
    assert set(sliding[:seen]) == {NO_BLOCK} and NO_BLOCK not in sliding[seen:]
    cache.release(one)
    assert cache.pool.free == cache.pool.count


def test_a_prefix_counts_only_as_far_as_the_windows_are_there_too(cache):
    """The sliding blocks of the middle are taken by others, so only the end, whose window is whole, is of use."""
    one = computed(cache, list(range(320)))
    tail = list(range(320)) + [1, 2, 3]
    cache.release(one)
    again = sequence(tail)
    cache.admit(again)
    assert again.computed == 320
    assert again.tables[0][: (320 - WINDOW + 1) // BLOCK_SIZE] == [NO_BLOCK] * ((320 - WINDOW + 1) // BLOCK_SIZE)
    cache.release(again)
    others = computed(cache, list(range(1000, 1600)))
    cache.release(others)
    shorter = sequence(list(range(160)))
    cache.admit(shorter)
    assert shorter.computed in (0, 144)
    cache.release(shorter)
    assert cache.pool.free == cache.pool.count


def test_a_pool_that_is_too_empty_changes_nothing(cache):
    one = computed(cache, list(range(600)))
    other = sequence(list(range(5000, 6500)))
    cache.admit(other)
    free = cache.pool.free
    assert not cache.extend(other, 1500)
    assert (cache.pool.free, other.tables) == (free, [[], []])
    assert held(one)


def test_after_a_failure_nothing_is_found(cache):
    computed(cache, list(range(100)))
    cache.pool.forget()
    one = sequence(list(range(100)))
    cache.admit(one)
    assert one.computed == 0


def test_a_cache_that_holds_no_sequence_is_refused():
    with pytest.raises(ValueError, match="holds no sequence"):
        KvCache(2, (WINDOW, None))


@given(some.data())
def test_no_block_is_lost_or_written_by_two_whatever_comes_and_goes(data):
    cache, alive = KvCache(60, (WINDOW, None)), []
    for _ in range(data.draw(some.integers(5, 40))):
        action = data.draw(some.sampled_from(["come", "compute", "go"]))
        if action == "come":
            begin = data.draw(some.integers(0, 2)) * 1000
            one = sequence(list(range(begin, begin + data.draw(some.integers(1, 200)))))
            cache.admit(one)
            assert one.pending >= 1
            alive.append(one)
        elif alive and action == "compute":
            one = data.draw(some.sampled_from(alive))
            count = min(data.draw(some.integers(1, 64)), one.pending)
            if count and cache.extend(one, one.computed + count):
                first = one.computed // BLOCK_SIZE
                written = {block for table in one.tables for block in table[first:]}
                assert NO_BLOCK not in written
                assert not any(written & set(held(other)) for other in alive if other is not one)
                one.computed += count
                cache.settle(one)
        elif alive:
            cache.release(alive.pop(data.draw(some.integers(0, len(alive) - 1))))
    shared = {block for one in alive for block in held(one)}
    assert cache.pool.free == cache.pool.count - len(shared)
