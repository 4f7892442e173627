"""The contrastive loss: the slow version, equal codes, padding, precision, memory, messages."""

import pytest
import torch
import torch.nn.functional as F
from speechbrain.nnet.losses import ContrastiveLoss

from speechbrain_pom.objectives.wav2vec2 import (
    contrast,
    contrastive_loss,
    diversity_loss,
    reference,
)
from speechbrain_pom.utils.errors import UserError

COUNTS = [1, 63, 2, 20]


def utterances(counts=COUNTS, width=6, num_codes=9, num_negatives=12, dtype=torch.float64):
    """Lists of x, y, codes and negatives, where several frames have one target."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(num_codes, width, generator=generator, dtype=dtype)
    found = []
    for count in counts:
        x = torch.randn(count, width, generator=generator, dtype=dtype)
        codes = torch.randint(num_codes, (count,), generator=generator)
        negatives = torch.randint(max(count - 1, 1), (count, num_negatives), generator=generator)
        negatives += negatives >= torch.arange(count).unsqueeze(1)
        negatives = negatives if count > 1 else torch.zeros_like(negatives)
        found.append((x, table[codes], codes, negatives))
    return [list(part) for part in zip(*found, strict=True)]


def flat(parts):
    """(N, ...) of lists; negatives are rows of all."""
    x, y, codes, negatives = parts
    starts = torch.tensor([0, *map(len, x)]).cumsum(0)
    negatives = [n + start for n, start in zip(negatives, starts, strict=False)]
    return [torch.cat(part) for part in (x, y, codes, negatives)]


def padded(parts, fill=0.0):
    """(B, T, ...) of lists, with `fill` in the padding of x and y."""

    def pad(part, value):
        return torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=value)

    x, y, codes, negatives = parts
    return pad(x, fill), pad(y, fill), pad(codes, 0), pad(negatives, -1)


def gradients(loss, *leaves):
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def test_equals_the_slow_version_with_all_gradients():
    x, y, _, negatives = flat(utterances())
    x.requires_grad_(), y.requires_grad_()
    loss_sum, accuracy = contrastive_loss(x, y, negatives, 0.1)
    found = gradients(loss_sum, x, y)
    total, num_correct = 0.0, 0.0
    start = 0
    for count in COUNTS:
        part = slice(start, start + count)
        one = reference.contrastive_loss(x[part], y[part], negatives[part] - start, 0.1)
        total, num_correct, start = total + one[0], num_correct + count * one[1], start + count
    for one, expected in zip(found, gradients(total, x, y), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-10, atol=1e-10)
    assert float(accuracy) == pytest.approx(num_correct / len(x))


def test_padding_changes_nothing():
    parts = utterances()
    x, y, codes, negatives = padded(parts)
    num_frames = sum(COUNTS)
    expected = contrast(x, y, codes, negatives, 0.1, num_frames)
    noise = contrast(*padded(parts, fill=7.5)[:2], codes, negatives, 0.1, num_frames)
    assert all(map(torch.equal, noise, expected))
    loss_sum, accuracy = contrastive_loss(*flat(parts)[:2], flat(parts)[3], 0.1)
    assert float(loss_sum) == pytest.approx(float(expected.loss_sum), rel=1e-12)
    assert float(accuracy) == pytest.approx(int(expected.num_correct) / num_frames)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(contrast(x, y, codes, negatives, 0.1, 1).loss_sum, x)
    lengths = torch.tensor(COUNTS).unsqueeze(1)
    assert (gradient[torch.arange(63) >= lengths] == 0).all()


def test_dropped_negatives_are_counted():
    x, y, codes, negatives = padded(utterances())
    found = contrast(x, y, codes, negatives, 0.1, sum(COUNTS))
    expected = 0
    for one, drawn in zip(codes, negatives, strict=True):
        for t, row in enumerate(drawn.tolist()):
            expected += sum(one[j] == one[t] for j in row if j >= 0)
    assert found.num_dropped == expected
    assert found.num_dropped > 12  # those of the single frame are itself
    # All targets equal: nothing is left to tell apart.
    same = contrast(x, y, torch.zeros_like(codes), negatives, 0.1, sum(COUNTS))
    assert same.num_dropped == (negatives >= 0).sum()
    assert (same.loss_sum, same.num_correct) == (0, sum(COUNTS))


def test_accuracy_is_one_for_the_first_of_equal_ones():
    x = torch.ones(1, 3, 2)
    y = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]])  # all equally similar, pairwise or not
    negatives = torch.tensor([[[1], [0], [1]]])
    assert contrast(x, y, torch.tensor([[0, 1, 2]]), negatives, 0.1, 3).num_correct == 3


def test_fp32_under_autocast_and_for_half_precision():
    x, y, codes, negatives = padded(utterances(width=64, dtype=torch.float32))
    expected = contrast(x, y, codes, negatives, 0.1, sum(COUNTS))
    with torch.autocast("cpu", torch.bfloat16):
        found = contrast(x, y, codes, negatives, 0.1, sum(COUNTS))
    assert torch.equal(found.loss_sum, expected.loss_sum)
    found = contrast(x.bfloat16(), y.bfloat16(), codes, negatives, 0.1, sum(COUNTS))
    assert found.loss_sum.dtype == torch.float32
    assert float(found.loss_sum) == pytest.approx(float(expected.loss_sum), rel=0.02)


def saved_bytes(compute):
    """Bytes that autograd keeps for the backward pass, every storage once."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = compute()
    assert loss.requires_grad
    return sum(storages.values())


def test_memory_is_far_below_that_of_a_tensor_of_negatives():
    """SpeechBrain's loss keeps (K + 1, B, T, C); here it is (B, T, T)."""
    batch, num_frames, width, num_negatives = 4, 300, 128, 100
    x, y = torch.randn(2, batch, num_frames, width).requires_grad_()
    codes = torch.arange(num_frames).expand(batch, -1)
    negatives = torch.randint(num_frames - 1, (batch, num_frames, num_negatives))
    negatives += negatives >= torch.arange(num_frames).unsqueeze(1)

    def ours():
        return contrast(x, y, codes, negatives, 0.1, batch * num_frames).loss_sum

    def theirs():
        rows = torch.arange(batch).view(-1, 1, 1)
        drawn = y[rows, negatives].permute(2, 0, 1, 3)  # (K, B, T, C)
        return ContrastiveLoss(0.1)(x, y, drawn)[0]

    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=0)
    assert saved_bytes(theirs) > 4 * num_negatives * batch * num_frames * width
    assert saved_bytes(ours) < saved_bytes(theirs) / 20


def test_diversity_equals_the_slow_version():
    logits = (3 * torch.randn(63, 2, 7, dtype=torch.float64)).requires_grad_()
    found = gradients(diversity_loss(logits), logits)
    expected = gradients(reference.diversity_loss(logits), logits)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    one_code = F.one_hot(torch.zeros(63, 2, dtype=torch.long), 7) * 100.0
    assert float(diversity_loss(one_code)) == pytest.approx(1 - 2 / 14, rel=1e-4)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, 3), (4, 2), (4, 5)), "x (4, 3), y (4, 2), negatives (4, 5): give (B, T, C)"),
        (((4, 3), (4, 3), (5, 5)), "x (4, 3), y (4, 3), negatives (5, 5): give"),
        (((3,), (3,), (3,)), "x (3,), y (3,), negatives (3,): give"),
    ],
)
def test_shapes_that_do_not_fit(shapes, message):
    x, y, negatives = (torch.ones(shape) for shape in shapes)
    with pytest.raises(UserError) as error:
        contrastive_loss(x, y, negatives.long(), 0.1)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("wrong", [-1, 4])
def test_negatives_that_are_no_frames(wrong):
    x = torch.randn(4, 3)
    with pytest.raises(UserError, match=r"negatives from (-1 to 1|1 to 4): the frames are 0 to 3"):
        contrastive_loss(x, x, torch.tensor([[1], [wrong], [1], [1]]), 0.1)
