"""Every head: alone and in any batch, its gradients, and SpeechBrain's own as reference."""

import copy

import pytest
import torch
from speechbrain.lobes.models.ContextNet import ContextNet
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.lobes.models.Xvector import Xvector

from speechbrain_pom.downstream import heads

SIZE, OUTPUTS = 12, 5
HEADS = {
    "linear": lambda: heads.LinearFrames(SIZE, OUTPUTS, None),
    "two linear": lambda: heads.LinearFrames(SIZE, OUTPUTS, 8),
    "bilstm": lambda: heads.BiLSTMFrames(SIZE, OUTPUTS, 6),
    "contextnet": lambda: heads.ContextNetFrames(
        SIZE, OUTPUTS, 8, num_blocks=2, num_layers=2, conv_channels=[8, 8]
    ),
    "mean": lambda: heads.MeanLinear(SIZE, OUTPUTS),
    "bilstm mean": lambda: heads.BiLSTMMean(SIZE, OUTPUTS, 6),
    "ecapa": lambda: heads.ECAPAHead(SIZE, OUTPUTS, 6, channels=8, scale=30.0),
    "xvector": lambda: heads.XVectorHead(SIZE, OUTPUTS, 6, channels=8, pooled_channels=10),
}
LENGTHS = torch.tensor([63, 1, 62, 5, 30])


@pytest.fixture(params=HEADS)
def head(request):
    torch.manual_seed(0)
    head = HEADS[request.param]()
    for norm in (m for m in head.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    return head.eval()


def batch(garbage=0.0):
    """Utterances of `LENGTHS` in one batch, with something in the padding."""
    torch.manual_seed(1)
    frames = torch.randn(len(LENGTHS), int(LENGTHS.max()), SIZE)
    padding = torch.arange(frames.shape[1]) >= LENGTHS.unsqueeze(1)
    return frames.masked_fill(padding.unsqueeze(-1), garbage)


def valid(outputs, row):
    """What an utterance got, without its padding."""
    return outputs[row, : LENGTHS[row]] if outputs.dim() == 3 else outputs[row]


@pytest.mark.parametrize("garbage", [0.0, 9.0])
def test_alone_and_in_a_batch(head, garbage):
    frames = batch(garbage)
    together = head(frames, LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = head(frames[row : row + 1, :length], length.view(1))
        torch.testing.assert_close(valid(together, row), alone[0], rtol=1e-4, atol=1e-5)


def test_training_does_not_count_padding(head):
    """Gradients and the statistics of batch normalisation, with padding and with more."""
    for module in head.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    results = []
    for extra, garbage in ((0, 0.0), (7, 5.0)):
        copied = copy.deepcopy(head).double().train()
        frames = torch.nn.functional.pad(batch(garbage).double(), (0, 0, 0, extra), value=garbage)
        frames.requires_grad_(True)
        outputs = copied(frames, LENGTHS)
        sum(valid(outputs, row).square().sum() for row in range(len(LENGTHS))).backward()
        state = {name: tensor for name, tensor in copied.state_dict().items() if "num" not in name}
        grads = {name: weight.grad for name, weight in copied.named_parameters()}
        results.append((state, grads, frames.grad[:, : int(LENGTHS.max())]))
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-9)
    state, grads, inputs = results[1]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads.values())
    assert inputs.abs().sum() > 0
    for row, length in enumerate(LENGTHS):
        assert not inputs[row, length:].any()


def test_an_lstm_with_hooks_is_called():
    torch.manual_seed(0)
    head = heads.BiLSTMFrames(SIZE, OUTPUTS, 6).eval()
    expected = head(batch(), LENGTHS)
    calls = []
    head.encode.lstm.rnn.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(head(batch(), LENGTHS), expected)
    assert calls == [1]


def test_one_utterance_is_a_batch(head):
    """The last batch of an epoch: SpeechBrain's ECAPA-TDNN raises an error there."""
    outputs = head.train()(torch.randn(1, 20, SIZE), torch.tensor([20]))
    outputs.sum().backward()
    assert torch.isfinite(outputs).all()


def test_the_original_cannot_take_one_utterance():
    ecapa = ECAPA_TDNN(SIZE, channels=[8] * 4 + [24], lin_neurons=6).train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ecapa(torch.randn(1, 20, SIZE))


def own_and_original(name):
    """A head's part of SpeechBrain and the original with the same weights, in eval mode."""
    torch.manual_seed(0)
    head = HEADS[name]().eval()
    own, original = {
        "contextnet": lambda: (
            head.contextnet,
            ContextNet(
                input_shape=[2, 8, SIZE],
                out_channels=8,
                conv_channels=[8, 8],
                strides=[1, 1],
                num_blocks=2,
                num_layers=2,
            ),
        ),
        "ecapa": lambda: (
            head.ecapa,
            ECAPA_TDNN(SIZE, channels=[8] * 4 + [24], lin_neurons=6, attention_channels=64),
        ),
        "xvector": lambda: (
            head.xvector,
            Xvector(in_channels=SIZE, tdnn_channels=[8] * 4 + [10], lin_neurons=6),
        ),
    }[name]()
    original.load_state_dict(own.state_dict())  # the names of SpeechBrain
    return head, original.eval()


@pytest.mark.parametrize("name", ["contextnet", "ecapa", "xvector"])
def test_without_padding_it_is_that_of_speechbrain(name):
    head, original = own_and_original(name)
    frames, num_frames = torch.randn(3, 40, SIZE), torch.tensor([40, 40, 40])
    if name == "contextnet":
        ours, theirs = head(frames, num_frames), head.output(original(frames))
    else:
        ours, theirs = head.embed(frames, num_frames), original(frames).squeeze(1)
    # The X-vector adds noise of at most 1e-4 to what it pools.
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=5e-4 if name == "xvector" else 1e-5)


@pytest.mark.parametrize("name", ["contextnet", "ecapa", "xvector"])
def test_with_padding_that_of_speechbrain_differs(name):
    """What the tests above can see: the original in a batch against alone."""
    _, original = own_and_original(name)
    frames = batch()[[0, 4]]
    relative = LENGTHS[[0, 4]] / 63
    length = int(LENGTHS[4])
    alone = original(frames[1:, :length])
    together = original(frames) if name == "contextnet" else original(frames, relative)
    together = together[1:, : alone.shape[1]]
    assert (together - alone).norm() > 5e-4 * alone.norm()


def test_an_embedding_head_needs_its_embedding():
    with pytest.raises(NotImplementedError):
        heads.EmbeddingHead(4, 2, 1.0).embed(torch.zeros(1, 2, 4), torch.tensor([2]))
