"""Projections that somebody hooks, prunes, parametrises or replaces are called as modules."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from speechbrain_pom.nnet import Fastformer, Mamba, PolynomialMixer, SummaryMixing
from speechbrain_pom.nnet.projections import PLAIN_KINDS, is_plain
from speechbrain_pom.ops import ChunkMask

D_MODEL = 20
SUMMARY = {"local_proj_hid_dim": [8], "local_proj_out_dim": 6, "summary_hid_dim": [4, 10]}
MIXERS = {
    "base": lambda: PolynomialMixer(D_MODEL, 3),
    "recompute": lambda: PolynomialMixer(D_MODEL, 2, recompute=True),
    "selective": lambda: PolynomialMixer(D_MODEL, 2, variant="selective"),
    "frequency3": lambda: PolynomialMixer(D_MODEL, 2, variant="frequency3"),
    "SummaryMixing": lambda: SummaryMixing(D_MODEL, 2, **SUMMARY),
    "lite": lambda: SummaryMixing(D_MODEL, 2, mode="lite", **SUMMARY),
    "Fastformer": lambda: Fastformer(D_MODEL, 4),
    "Mamba": lambda: Mamba(D_MODEL, d_state=4),
    "causal Mamba": lambda: Mamba(D_MODEL, bidirectional=False, d_state=4),
}
CHUNKS = ("base", "recompute", "selective", "frequency3", "SummaryMixing", "lite")
PADDING = torch.arange(63) >= torch.tensor([[63], [1], [40]])
ANY_MASK = torch.rand(63, 63, generator=torch.Generator().manual_seed(0)) > 0.5
CALLS = [
    *((name, {}) for name in MIXERS),
    *((name, {"key_padding_mask": PADDING}) for name in MIXERS),
    ("causal Mamba", {"attn_mask": ChunkMask(1)}),
    *(
        (name, {"attn_mask": mask, "key_padding_mask": PADDING})
        for name in CHUNKS
        for mask in (ChunkMask(1), ChunkMask(8, 1), ANY_MASK)
    ),
    *((name, {"key": torch.randn(3, 50, D_MODEL)}) for name in CHUNKS),
]


def build(name):
    torch.manual_seed(0)
    return MIXERS[name]()


def projections(mixer):
    return {name: part for name, part in mixer.named_modules() if type(part) in PLAIN_KINDS}


def replace(mixer, name, part):
    owner, _, name = name.rpartition(".")
    setattr(mixer.get_submodule(owner), name, part)


def results(mixer, options=None, frames=None):
    """Output and gradients of one call, in training."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(3, 63, D_MODEL, generator=generator) if frames is None else frames
    frames.requires_grad_()
    mixer.zero_grad()
    torch.manual_seed(2)  # of dropout
    output, _ = mixer(frames, **(options or {}))
    output.square().mean().backward()
    return [output, frames.grad, *(weight.grad for weight in mixer.parameters())]


def assert_equal(found, expected, rtol=1e-4, atol=1e-5):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("name", "options"), CALLS)
def test_called_or_read_the_results_are_the_same(name, options):
    mixer = build(name)
    expected = results(mixer, options)
    for one in list(projections(mixer))[-1:], projections(mixer):
        hooked = copy.deepcopy(mixer)
        for part in one:
            hooked.get_submodule(part).register_forward_hook(lambda *_: None)
        assert_equal(results(hooked, options), expected)


@pytest.mark.parametrize("name", MIXERS)
def test_in_half_precision(name):
    mixer, outputs = build(name).eval(), []
    frames = torch.randn(3, 63, D_MODEL)
    hooked = copy.deepcopy(mixer)
    for part in projections(hooked).values():
        part.register_forward_hook(lambda *_: None)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [each(frames, key_padding_mask=PADDING)[0] for each in (mixer, hooked)]
    exact, _ = mixer(frames, key_padding_mask=PADDING)
    assert outputs[0].dtype == outputs[1].dtype
    for output in outputs:
        torch.testing.assert_close(output.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", MIXERS)
def test_padding_may_hold_anything(name):
    mixer = build(name).eval()
    next(iter(projections(mixer).values())).register_forward_hook(lambda *_: None)
    frames = torch.randn(3, 63, D_MODEL)
    dirty = frames.masked_fill(PADDING.unsqueeze(-1), torch.nan)
    outputs = [mixer(each, key_padding_mask=PADDING)[0][~PADDING] for each in (frames, dirty)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", MIXERS)
def test_hooks_fire(name):
    mixer, fired = build(name), []
    for part in projections(mixer):
        layer = mixer.get_submodule(part)
        layer.register_forward_hook(lambda *_, part=part: fired.append((part, "forward")))
        layer.register_forward_pre_hook(lambda *_, part=part: fired.append((part, "before")))
        layer.register_full_backward_hook(lambda *_, part=part: fired.append((part, "back")))
        layer.register_full_backward_pre_hook(lambda *_, part=part: fired.append((part, "pre")))
    results(mixer)
    assert sorted(fired) == sorted(
        (part, kind) for part in projections(mixer) for kind in ("forward", "before", "back", "pre")
    )


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_one_hook_of_any_kind_is_enough(kind):
    mixer, fired = build("base"), []
    register = getattr(mixer.out_proj, f"register_{kind}_hook")
    handle = register(lambda *_: fired.append(kind))
    results(mixer)
    assert fired == [kind]
    handle.remove()
    results(mixer)
    assert fired == [kind]


def train(mixer, parameters=None, steps=3):
    """The losses of some steps."""
    optimizer = torch.optim.SGD(parameters or mixer.parameters(), 0.1)
    frames, target, losses = torch.randn(3, 63, D_MODEL), torch.randn(3, 63, D_MODEL), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (mixer(frames, key_padding_mask=PADDING)[0] - target)[~PADDING].square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", MIXERS)
def test_pruned_while_it_trains(name):
    mixer = build(name).eval()
    for part in projections(mixer).values():
        prune.l1_unstructured(part, "weight", amount=0.4)
        assert not is_plain(part)
    losses = train(mixer)
    assert losses == sorted(losses, reverse=True)
    frames = torch.randn(3, 63, D_MODEL)
    pruned, _ = mixer(frames)
    for part in projections(mixer).values():
        prune.remove(part, "weight")
        assert 0.3 < float((part.weight == 0).float().mean()) < 0.5
        assert is_plain(part) == (part.bias is not None)
    assert_equal(mixer(frames)[:1], [pruned])


@pytest.mark.parametrize(
    "parametrise", [parametrizations.weight_norm, parametrizations.spectral_norm]
)
@pytest.mark.parametrize("name", MIXERS)
def test_parametrised_while_it_trains(name, parametrise):
    mixer = build(name).eval()
    for part in projections(mixer).values():
        parametrise(part)
    losses = train(mixer)
    assert losses == sorted(losses, reverse=True)
    weights = {name: weight for name, weight in mixer.named_parameters() if "original" in name}
    assert [name for name, weight in weights.items() if not weight.grad.any()] == []


class Adapter(nn.Module):
    """A frozen layer and a trained one of low rank beside it."""

    def __init__(self, base, sizes):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(sizes[0], 2), nn.Linear(2, sizes[1])
        nn.init.zeros_(self.up.weight), nn.init.zeros_(self.up.bias)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("name", MIXERS)
def test_adapters_are_trained(name):
    mixer = build(name).eval().requires_grad_(False)
    frames = torch.randn(3, 63, D_MODEL)
    expected, _ = mixer(frames)
    adapters = []
    for part, layer in projections(mixer).items():
        if isinstance(layer, (nn.Conv1d, nn.LayerNorm)):
            continue
        *blocks, rows, columns = layer.weight.shape
        # Of a block-diagonal layer (blocks, in, out), of a linear one (out, in).
        sizes = (blocks[0] * rows, blocks[0] * columns) if blocks else (columns, rows)
        adapters.append(Adapter(layer, sizes))
        replace(mixer, part, adapters[-1])
    assert_equal(mixer(frames)[:1], [expected])
    trained = [weight for adapter in adapters for weight in adapter.up.parameters()]
    losses = train(mixer, trained)
    assert losses == sorted(losses, reverse=True)
    assert all(adapter.up.weight.any() for adapter in adapters)


@pytest.mark.parametrize("name", MIXERS)
def test_quantised(name):
    mixer = build(name).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(mixer, {nn.Linear})
    if name != "lite":  # which has no linear layer
        assert any("quantized" in type(part).__module__ for part in quantised.modules())
    frames = torch.randn(3, 63, D_MODEL)
    expected, _ = mixer(frames, key_padding_mask=PADDING)
    found, _ = quantised(frames, key_padding_mask=PADDING)
    assert (found - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("name", [name for name in MIXERS if "Mamba" not in name])
def test_summaries_of_parts(name):
    mixer = build(name).eval()
    for part in projections(mixer).values():
        part.register_forward_hook(lambda *_: None)
    frames = torch.randn(2, 63, D_MODEL)
    parts, summary = frames.split(25, dim=1), None
    for _ in range(mixer.num_passes):
        first, *others = (mixer.summarise(part, earlier=summary) for part in parts)
        summary = sum(others, start=first)
    mixed = torch.cat([mixer.mix(part, summary) for part in parts], 1)
    assert_equal([mixed], mixer(frames)[:1])


@pytest.mark.parametrize("name", ["base", "SummaryMixing", "Fastformer"])
def test_wrapped_layers_are_one_graph_too(name):
    torch._dynamo.reset()
    mixer = build(name).eval()
    for part, layer in projections(mixer).items():
        replace(mixer, part, nn.Sequential(layer))

    def mix(frames):
        return mixer(frames, key_padding_mask=PADDING)[0]

    frames = torch.randn(3, 63, D_MODEL)
    compiled = torch.compile(mix, fullgraph=True, backend="aot_eager")
    assert_equal([compiled(frames)], [mix(frames)])
