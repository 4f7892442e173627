"""The order of the data: every utterance once, fresh every epoch, the same on every rank."""

import re
import time

import numpy as np
import pytest
import torch

from speechbrain_pom.training.sampler import BucketBatchSampler

WORLD_SIZES = [1, 2, 3, 8]


def corpus(num_utterances, longest_s=16.0, seed=0):
    durations_s = np.random.default_rng(seed).uniform(1.5, longest_s, num_utterances)
    return durations_s, [f"spk{i % 7}-{i:06d}" for i in range(num_utterances)]


def epoch_batches(epoch, world_size=1, num_utterances=300, **options):
    """Batches of every rank, ``[rank][step]``."""
    ranks = []
    for rank in range(world_size):
        sampler = BucketBatchSampler(
            *corpus(num_utterances),
            **{"seed": 1000, "rank": rank, "world_size": world_size, **options},
        )
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    return ranks


LIMITS = [{"max_batch_duration_s": 100}, {"batch_size": 6}, {"batch_size": 7, "order": "ascending"}]


@pytest.mark.parametrize("options", LIMITS)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("num_utterances", [16, 63, 300, 301])
def test_every_utterance_exactly_once_over_all_ranks(options, world_size, num_utterances):
    for epoch in (1, 2, 3):
        ranks = epoch_batches(epoch, world_size, num_utterances, **options)
        assert len({len(batches) for batches in ranks}) == 1
        seen = [index for batches in ranks for batch in batches for index in batch]
        assert sorted(seen) == list(range(num_utterances))
        assert all(batch for batches in ranks for batch in batches)


@pytest.mark.parametrize("options", LIMITS[:2])
def test_order_is_fresh_every_epoch_and_depends_on_the_seed(options):
    def batches(epoch, seed):
        return [tuple(batch) for batch in epoch_batches(epoch, seed=seed, **options)[0]]

    first = batches(1, 1000)
    assert first == batches(1, 1000)
    for other in (batches(2, 1000), batches(1, 1001)):
        assert first != other
        # Not only the order of the batches changes, but also who is with whom.
        composition = {frozenset(batch) for batch in first}
        assert len(composition & {frozenset(batch) for batch in other}) < len(composition) / 4


def test_any_epoch_can_be_reached_directly():
    through = BucketBatchSampler(*corpus(300), max_batch_duration_s=100, seed=1000)
    for epoch in (1, 2, 3):
        through.set_epoch(epoch)
        batches = list(through)
    assert batches == epoch_batches(3, max_batch_duration_s=100)[0]


def test_batches_do_not_depend_on_the_order_of_the_manifest():
    durations_s, ids = corpus(100)
    shuffled = np.random.default_rng(1).permutation(100)
    options = {"max_batch_duration_s": 60, "seed": 1000}
    first = BucketBatchSampler(durations_s, ids, **options)
    second = BucketBatchSampler(durations_s[shuffled], [ids[i] for i in shuffled], **options)
    batches = [[ids[i] for i in batch] for batch in first]
    assert batches == [[ids[shuffled[i]] for i in batch] for batch in second]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("limit_s", [16, 33.3, 100, 1400])
def test_padded_duration_stays_within_the_limit(world_size, limit_s):
    durations_s, _ = corpus(500)
    for batches in epoch_batches(1, world_size, 500, max_batch_duration_s=limit_s):
        for batch in batches:
            assert max(durations_s[batch]) * len(batch) <= limit_s


def test_padding_is_small_and_batches_are_full():
    durations_s, ids = corpus(5000)
    sampler = BucketBatchSampler(durations_s, ids, max_batch_duration_s=200, seed=1)
    summary = sampler.summary()
    assert summary["padding_share"] < 0.02
    assert summary["mean_batch_duration_s"] > 0.93 * 200
    assert summary["num_batches"] == len(sampler)
    # The figures follow from the batches.
    padded_s = sum(max(durations_s[batch]) * len(batch) for batch in sampler)
    assert summary["padding_share"] == pytest.approx(1 - durations_s.sum() / padded_s)
    assert summary["mean_batch_duration_s"] == pytest.approx(durations_s.sum() / len(sampler))
    one_bucket = BucketBatchSampler(
        durations_s, ids, max_batch_duration_s=200, num_buckets=1, seed=1
    )
    assert one_bucket.summary()["padding_share"] > 0.2  # the guard: sorting is what helps


def test_a_small_corpus_is_mixed_despite_many_buckets():
    options = {"max_batch_duration_s": 100, "num_buckets": 100_000}
    first, second = (
        {frozenset(batch) for batch in epoch_batches(epoch, **options)[0]} for epoch in (1, 2)
    )
    assert len(first & second) < len(first) / 4


def test_ranks_wait_little_for_each_other():
    durations_s, _ = corpus(4000)
    ranks = epoch_batches(1, 4, 4000, max_batch_duration_s=200)
    padded_s = np.array(
        [[max(durations_s[batch]) * len(batch) for batch in batches] for batches in ranks]
    )
    longest_s = np.array([[max(durations_s[batch]) for batch in batches] for batches in ranks])

    def waiting(costs):
        return 1 - costs.mean() / costs.max(axis=0).mean()

    assert waiting(padded_s) < 0.05
    assert waiting(padded_s * longest_s) < 0.07  # what self-attention costs
    mixed = np.array([np.random.default_rng(r).permutation(x) for r, x in enumerate(longest_s)])
    assert waiting(mixed) > 0.2  # the guard: batches of any length side by side
    steps_s = longest_s.mean(axis=0)
    assert abs(np.corrcoef(steps_s, np.arange(len(steps_s)))[0, 1]) < 0.3  # no curriculum


@pytest.mark.parametrize("world_size", [1, 2])
def test_start_gives_the_tail_of_that_epoch_only(world_size):
    for rank in range(world_size):
        sampler = BucketBatchSampler(
            *corpus(300), max_batch_duration_s=100, seed=1, rank=rank, world_size=world_size
        )
        full = {}
        for epoch in (1, 2, 3):
            sampler.set_epoch(epoch)
            full[epoch] = list(sampler)
        for step in (0, 1, 5, len(full[2])):
            resumed = BucketBatchSampler(
                *corpus(300), max_batch_duration_s=100, seed=1, rank=rank, world_size=world_size
            )
            resumed.set_start(epoch=2, step=step)
            resumed.set_epoch(2)
            assert list(resumed) == full[2][step:]
            assert list(resumed) == full[2][step:]  # asking twice consumes nothing
            assert len(resumed) == len(full[2])
            resumed.set_epoch(3)
            assert list(resumed) == full[3]
            resumed.set_start(epoch=3, step=2)  # after set_epoch as well as before
            assert list(resumed) == full[3][2:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_start_skips_without_loading_in_a_data_loader(num_workers):
    class Recorded(torch.utils.data.Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, index):
            return index

    sampler = BucketBatchSampler(*corpus(60), max_batch_duration_s=60, seed=1)
    sampler.set_epoch(2)
    full = list(sampler)
    sampler.set_start(2, 3)
    loader = torch.utils.data.DataLoader(
        Recorded(), batch_sampler=sampler, num_workers=num_workers, collate_fn=list
    )
    assert len(loader) == len(full)
    assert list(loader) == full[3:]


def test_an_epoch_in_progress_is_not_disturbed_by_the_next_one():
    sampler = BucketBatchSampler(*corpus(100), max_batch_duration_s=60, seed=1)
    full = list(sampler)
    running = iter(sampler)
    first = next(running)
    sampler.set_epoch(1)
    assert [first, *running] == full


def test_a_start_beyond_the_epoch_is_refused():
    sampler = BucketBatchSampler(*corpus(12), batch_size=6, seed=1)
    sampler.set_start(0, 3)
    with pytest.raises(ValueError, match="cannot start at batch 3 of epoch 0, which has 2 batches"):
        iter(sampler)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_sorted_orders_are_sorted_with_ties_by_id(world_size):
    durations_s, ids = [2.0, 1.0, 2.0, 3.0, 1.0, 2.0], ["f", "b", "a", "d", "e", "c"]
    expected = ["b", "e", "a", "c", "f", "d"]
    for order in ("ascending", "descending"):
        ranks = [
            list(
                BucketBatchSampler(
                    durations_s,
                    ids,
                    batch_size=2,
                    order=order,
                    seed=1,
                    rank=rank,
                    world_size=world_size,
                )
            )
            for rank in range(world_size)
        ]
        by_step = [batch for step in zip(*ranks, strict=True) for batch in step]
        assert [ids[i] for batch in by_step for i in batch] == expected
        expected = expected[::-1]


def test_sorted_orders_obey_the_duration_limit_too():
    durations_s, _ = corpus(200)
    batches = epoch_batches(1, 1, 200, max_batch_duration_s=50, order="ascending")[0]
    flat = [index for batch in batches for index in batch]
    assert np.all(np.diff(durations_s[flat]) >= 0)
    assert all(max(durations_s[batch]) * len(batch) <= 50 for batch in batches)


def test_as_few_utterances_as_ranks():
    for num_utterances in (8, 9, 15, 17):
        ranks = epoch_batches(1, 8, num_utterances, max_batch_duration_s=1400)
        assert sorted(i for b in ranks for batch in b for i in batch) == list(range(num_utterances))


def test_a_large_corpus_is_planned_quickly():
    durations_s, ids = corpus(300_000)
    sampler = BucketBatchSampler(durations_s, ids, max_batch_duration_s=1400, seed=1, world_size=8)
    start = time.perf_counter()
    sampler.set_epoch(1)
    assert time.perf_counter() - start < 2  # about 0.1 s


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": None}, "give exactly one of max_batch_duration_s and batch_size: {'max_"),
        ({"max_batch_duration_s": 9}, "give exactly one of max_batch_duration_s and batch_size"),
        ({"batch_size": 0}, "batch_size = 0 must be above 0"),
        ({"num_buckets": 0}, "num_buckets = 0 must be above 0"),
        ({"order": "sorted"}, "order = 'sorted' does not exist: choose one of ('random', 'asc"),
        ({"rank": 2, "world_size": 2}, "rank = 2 does not exist among world_size = 2"),
        ({"ids": ["a", "b"]}, "3 durations with 2 ids: give one id per duration"),
        ({"ids": ["a", "b", "a"]}, "utterance id 'a' occurs more than once: ids must be unique"),
        ({"durations_s": [1, 0, 3]}, "utterance 'b' has a duration of 0.0 s: remove it, or"),
        ({"durations_s": [1, 2, np.nan]}, "utterance 'c' has a duration of nan s: remove it, or"),
        ({"world_size": 4}, "3 utterances are too few for 4 processes: use fewer processes or"),
        ({"durations_s": [], "ids": []}, "0 utterances are too few for 1 processes"),
        (
            {"batch_size": None, "max_batch_duration_s": 2.5},
            "utterance 'c' lasts 3 s, more than max_batch_duration_s = 2.5: raise this limit, or",
        ),
        (
            {"batch_size": 1, "world_size": 2},
            "3 utterances, one per batch, cannot be shared out evenly among 2 processes: allow",
        ),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    arguments = {
        "durations_s": [1.0, 2.0, 3.0],
        "ids": ["a", "b", "c"],
        "batch_size": 2,
        "seed": 1,
        **options,
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        BucketBatchSampler(arguments.pop("durations_s"), arguments.pop("ids"), **arguments)
