"""Sums over windows of chunks, against brute force."""

import pytest
import torch

from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.ops.common.means import means, rows_of_frames
from speechbrain_pom.ops.common.sums import chunk_sums, count_frames
from speechbrain_pom.ops.common.windows import window_sums


@pytest.mark.parametrize("seed", range(5))
def test_window_sums_equal_brute_force(seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        num_chunks, left = torch.randint(0, 40, (2,), generator=generator).tolist()
        num_chunks += 1
        values = torch.randint(-9, 9, (2, num_chunks, 3), generator=generator).float()
        expected = [values[:, max(0, c - left) : c + 1].sum(1) for c in range(num_chunks)]
        assert torch.equal(window_sums(values, left), torch.stack(expected, 1))  # whole numbers


def test_window_sums_without_a_limit_are_running_sums():
    values = torch.randn(2, 9, 3)
    assert torch.equal(window_sums(values, None), values.cumsum(1))


def test_a_window_adds_only_what_is_inside():
    # The difference of two running sums would give 0 where 1 is right (1e9 + 1 in fp32).
    values = torch.full((1, 20, 1), 1e9)
    values[:, 7:] = 1.0
    running = values.cumsum(1)
    assert (running[0, 12] - running[0, 10]).item() != 2.0  # the way not taken
    assert window_sums(values, 1)[0, 12].item() == 2.0
    values[:, :7] = torch.inf
    assert torch.equal(window_sums(values, 2)[0, 9:], torch.full((11, 1), 3.0))


@pytest.mark.parametrize("num_frames", [1, 4, 5, 63])
def test_chunk_sums_of_a_partial_last_chunk(num_frames):
    values = torch.randint(-9, 9, (2, num_frames, 3)).float()
    expected = torch.stack([part.sum(1) for part in values.split(5, dim=1)], 1)
    assert torch.equal(chunk_sums(values, 5), expected)


@pytest.mark.parametrize("mask", [None, ChunkMask(6), ChunkMask(6, 1), "tensor"])
def test_the_mean_that_each_frame_sees(mask):
    features = torch.randn(2, 40, 3, dtype=torch.float64)
    padding = torch.arange(40) >= torch.tensor([[40], [17]])
    hidden = torch.rand(40, 40) < 0.3
    if mask is None:
        hidden = torch.zeros(40, 40, dtype=torch.bool)
    elif isinstance(mask, ChunkMask):
        hidden = mask.to_bool(40)
    else:
        mask = hidden
    chunk_size = mask.chunk_size if isinstance(mask, ChunkMask) else None
    if isinstance(mask, torch.Tensor):
        state = means(features, count_frames(features, padding, 1), mask, padding)
        chunk_size = 1
    else:
        valid = features.masked_fill(padding.unsqueeze(-1), 0.0)
        sums = valid.sum(1, keepdim=True) if mask is None else chunk_sums(valid, chunk_size)
        state = means(sums, count_frames(features, padding, chunk_size), mask)
    found = rows_of_frames(state, chunk_size, 12, 31).expand(2, 19, 3)
    for b in range(2):
        for t in range(12, 31):
            visible = ~hidden[t] & ~padding[b]
            expected = features[b, visible].mean(0) if visible.any() else torch.zeros(3)
            torch.testing.assert_close(found[b, t - 12], expected.double(), rtol=1e-12, atol=1e-15)
