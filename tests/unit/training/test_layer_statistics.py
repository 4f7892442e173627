"""What mixers put out while they train: figures against their definition, lines, resuming."""

import json

import pytest
import torch
from speechbrain.lobes.models.transformer.TransformerASR import EncoderWrapper

from speechbrain_pom.training.layer_statistics import LayerStatistics, describe_frames
from tests.helpers.encoders import build_transformer


def encoder(spec="RelPosMHAXL + PoM"):
    torch.manual_seed(0)
    model = build_transformer(spec, 6, d_model=8, d_ffn=16)
    return torch.nn.ModuleDict({"wrapper": EncoderWrapper(model)})


def train_batch(modules, statistics, step, is_first=True):
    torch.manual_seed(step)
    modules.zero_grad()
    with statistics.of_batch(step, is_first):
        modules["wrapper"](
            torch.randn(2, 9, 6), torch.tensor([1.0, 5 / 9])
        ).square().sum().backward()


def lines(folder):
    return [json.loads(line) for line in (folder / "layers.jsonl").read_text().splitlines()]


def test_padding_counts_in_no_figure():
    frames = torch.randn(2, 63, 5)
    padding = torch.arange(63) >= torch.tensor([[63], [20]])
    dirty = frames.masked_fill(padding.unsqueeze(-1), float("nan"))
    valid = torch.cat([frames[0], frames[1, :20]])
    found = describe_frames(dirty, padding)
    assert found["rms"] == pytest.approx(float(valid.square().mean().sqrt()), abs=1e-5)
    power = float(valid.square().mean())
    of_all = float(valid.mean(0).square().mean()) / power
    of_time = sum(len(x) * float(x.mean(0).square().mean()) for x in (frames[0], frames[1, :20]))
    assert found["constant_over_utterances"] == pytest.approx(of_all, abs=1e-5)
    assert found["constant_over_time"] == pytest.approx(of_time / 83 / power, abs=1e-5)
    assert describe_frames(torch.zeros(1, 2, 3))["constant_over_time"] == 0


def test_a_line_for_every_interval_and_no_other_effect(tmp_path):
    modules = encoder()
    statistics = LayerStatistics(modules, tmp_path, interval=2)
    num_hooks = [len(mixer._forward_hooks) for mixer in statistics.mixers]
    for step in range(4):
        train_batch(modules, statistics, step)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [0, 2]
    assert [len(mixer._forward_hooks) for mixer in statistics.mixers] == num_hooks
    gradients = [weight.grad.clone() for weight in modules.parameters()]
    train_batch(modules, LayerStatistics(modules, tmp_path, 0), 3)
    assert all(
        torch.equal(a, weight.grad)
        for a, weight in zip(gradients, modules.parameters(), strict=True)
    )
    for line in found:
        assert len(line["layers"]) == 2
        for layer in line["layers"]:
            assert layer["input_rms"] == pytest.approx(1, abs=0.01)  # behind a LayerNorm
            assert layer["gradient_norm"] > 0
            assert 0 <= layer["constant_over_utterances"] <= layer["constant_over_time"] <= 1
    # PoM ends in a LayerNorm: its rms is the gain, whatever it mixes.
    assert found[0]["layers"][1]["output_rms"] == pytest.approx(0.1, abs=1e-3)


def test_accumulated_batches_are_looked_at_once(tmp_path):
    modules = encoder("PoM")
    statistics = LayerStatistics(modules, tmp_path, interval=1)
    train_batch(modules, statistics, 0)
    train_batch(modules, statistics, 0, is_first=False)
    assert [line["step"] for line in lines(tmp_path)] == [0]


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    modules = encoder("PoM")
    statistics = LayerStatistics(modules, tmp_path, interval=1)
    for step in range(4):
        train_batch(modules, statistics, step)
    statistics.resume(2)
    assert [line["step"] for line in lines(tmp_path)] == [0, 1]


@pytest.mark.parametrize("interval", [-1, 2.5, None])
def test_intervals_that_are_none(interval, tmp_path):
    with pytest.raises(ValueError, match=r"layer_statistics_interval is .*: give a number of opti"):
        LayerStatistics(torch.nn.ModuleDict(), tmp_path, interval)
