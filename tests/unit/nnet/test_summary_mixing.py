"""SummaryMixing: the publication's numbers, the reference, masks, dropout, names and checks."""

import itertools

import pytest
import torch
from torch import nn

from speechbrain_pom import SummaryMixing
from speechbrain_pom.ops import ChunkMask, summary_mixing
from speechbrain_pom.ops.summary_mixing import reference
from tests.unit.nnet.test_golden import GOLDEN, assert_golden, assert_same, load, published_state

MODES = ("full", "lite")
FILES = {"full": GOLDEN / "summarymixing_h4.npz", "lite": GOLDEN / "summarymixing_lite_h4.npz"}
NORMALISED = {
    "gelu": GOLDEN / "summarymixing_layernorm_gelu_h4.npz",
    "swish": GOLDEN / "summarymixing_layernorm_swish_h4.npz",
}

NORMS = ("local_norm", "summary_norm")

# Where the published parameters live in ours, written out independently of the package's rule.
OUR_NAMES = {
    "local_proj.linear.weights": "local_proj.0.weight",
    "local_proj.linear.biases": "local_proj.0.bias",
    "local_proj.linear_0.weights": "local_proj.1.weight",
    "local_proj.linear_0.biases": "local_proj.1.bias",
    "summary_proj.linear.weights": "summary_proj.0.weight",
    "summary_proj.linear.biases": "summary_proj.0.bias",
    "summary_proj.linear_0.weights": "summary_proj.1.weight",
    "summary_proj.linear_0.biases": "summary_proj.1.bias",
    "summary_local_merging.linear.w.weight": "merge_proj.weight",
    "summary_local_merging.linear.w.bias": "merge_proj.bias",
    **{f"{norm}.{kind}": f"{norm}.{kind}" for norm in NORMS for kind in ("weight", "bias")},
}


def golden_mixer(mode, golden, **options):
    sizes = {
        name: golden[name].tolist()
        for name in golden
        if name.endswith("_dim") and not name.startswith("d_")
    }
    d_model, nhead = int(golden["d_model"]), int(golden["nhead"])
    mixer = SummaryMixing(d_model, nhead, mode, **sizes, **options, dropout=0.0).double()
    assert str(mixer.load_state_dict(published_state(golden))) == "<All keys matched successfully>"
    return mixer


@pytest.mark.parametrize("mode", MODES)
def test_output_and_all_gradients_equal_the_published_code(mode):
    golden = load(FILES[mode])
    padding = golden["key_padding_mask"]
    assert_golden(golden_mixer(mode, golden), golden, OUR_NAMES.get, key_padding_mask=padding)


@pytest.mark.parametrize("by_layers", [False, True], ids=["weights", "layers"])
@pytest.mark.parametrize("activation", NORMALISED)
def test_with_norms_too(activation, by_layers):
    golden = load(NORMALISED[activation])
    mixer = golden_mixer("full", golden, activation=activation, layer_norm=True)
    if by_layers:  # a hook: the layers have to be called
        mixer.local_norm.register_forward_hook(lambda *_: None)
    assert_golden(mixer, golden, OUR_NAMES.get, key_padding_mask=golden["key_padding_mask"])
    other = {"gelu": "swish", "swish": "gelu"}[activation]
    wrong = golden_mixer("full", golden, activation=other, layer_norm=True)
    assert (wrong(golden["x"])[0] - golden["y"]).abs().max() > 0.01


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_norms_in_two_halves(mode, hooked):
    mixer = SummaryMixing(8, 2, mode, activation="swish", layer_norm=True).eval()
    for norm in (mixer.local_norm, mixer.summary_norm):
        if norm is not None:
            nn.init.normal_(norm.weight)
    if hooked:
        mixer.summary_proj[0].register_forward_hook(lambda *_: None)
        mixer.summary_norm.register_forward_hook(lambda *_: None)
    x = torch.randn(2, 63, 8)
    padding = torch.arange(63) >= torch.tensor([[63], [40]])
    whole = mixer(x, key_padding_mask=padding)[0]
    parts = [
        mixer.summarise(part, mask)
        for part, mask in zip(x.split(30, 1), padding.split(30, 1), strict=True)
    ]
    mixed = mixer.mix(x, parts[0] + parts[1] + parts[2])
    torch.testing.assert_close(mixed[~padding], whole[~padding], rtol=1e-5, atol=1e-5)


def test_published_names_load_inside_a_larger_model_and_others_are_noticed():
    golden = load(FILES["full"])
    mixer = golden_mixer("full", golden)
    model = nn.ModuleDict({"layers": nn.ModuleList([mixer])})
    state = {f"layers.0.{name}": tensor for name, tensor in published_state(golden).items()}
    assert str(model.load_state_dict(state)) == "<All keys matched successfully>"
    state["layers.0.local_proj.linear_7.weights"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r"local_proj\.8\.weight"):
        model.load_state_dict(state)


def arbitrary_mask(num_queries, num_keys):
    hidden = torch.rand(num_queries, num_keys) < 0.5
    hidden[num_queries // 2] = True  # a query that sees nothing
    return hidden


MASKS = {
    "none": lambda t: None,
    "causal": lambda t: ChunkMask(1),
    "chunks of 5, 2 left": lambda t: ChunkMask(5, 2),
    "chunks of 3, tensor": lambda t: ChunkMask(3).to_bool(t),
    "half-life": lambda t: ChunkMask(5, half_life_chunks=2.5),
    "half-life, resets": lambda t: ChunkMask(3, None, 1.5, [[2, 9], [], [0, 1, 40]]),
    "chunks of 5, 2 left, resets": lambda t: ChunkMask(5, 2, resets=[[3], [1, 2], []]),
    "arbitrary": lambda t: arbitrary_mask(t, t),
}


def random_weights(mode):
    def leaf(*shape):
        return (0.5 * torch.randn(*shape, dtype=torch.float64)).requires_grad_()

    def layers(*sizes):
        return [(leaf(2, i, o), leaf(2, o)) for i, o in itertools.pairwise(sizes)]

    summary = layers(3, 5, 4, 3)  # per head: 6 -> 10 -> 8 -> 6
    if mode == "lite":
        return [summary]
    return [summary, layers(3, 4, 7), (leaf(6, 14 + 6), leaf(6))]


def leaves_of(weights):
    summary, *full = weights
    pairs = [*summary, *(full[0] if full else []), *full[1:]]
    return [tensor for pair in pairs for tensor in pair]


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("num_frames", [1, 63, 500])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("mode", MODES)
def test_equals_the_reference_with_all_gradients(mode, mask, num_frames, padded):
    compare_with_the_reference(mode, mask, num_frames, padded)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("mode", MODES)
def test_equals_the_reference_with_norms_and_swish(mode, mask):
    compare_with_the_reference(mode, mask, 63, True, random_norms(mode), activation="swish")


def random_norms(mode):
    widths = {"local_norm": 14, "summary_norm": 6} if mode == "full" else {"summary_norm": 6}
    return {
        name: tuple(torch.randn(2, width, dtype=torch.float64).requires_grad_())
        for name, width in widths.items()
    }


def compare_with_the_reference(mode, mask, num_frames, padded, norms=None, **options):
    norms = norms or {}
    options |= norms
    weights = random_weights(mode)
    x = torch.randn(3, num_frames, 6, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([[num_frames], [1 + num_frames // 3], [1]])
    padding = torch.arange(num_frames) >= lengths if padded else torch.zeros(3, num_frames) > 0
    masks = {"attn_mask": MASKS[mask](num_frames), "key_padding_mask": padding, **options}
    leaves = [x, *leaves_of(weights), *(tensor for pair in norms.values() for tensor in pair)]
    results = []
    for function in (summary_mixing, reference.summary_mixing):
        output = function(x, *weights, **masks)[~padding]
        direction = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).view_as(output)
        gradients = torch.autograd.grad((output * direction).sum(), leaves)
        results.append([output.detach(), *gradients])
    for found, expected in zip(*results, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("mode", MODES)
def test_key_of_another_length(mode):
    weights = random_weights(mode)
    query, key = (torch.randn(3, length, 6, dtype=torch.float64) for length in (20, 33))
    padding = torch.arange(33) >= torch.tensor([[33], [5], [1]])
    for mask in (None, arbitrary_mask(20, 33)):
        masks = {"key": key, "attn_mask": mask, "key_padding_mask": padding}
        expected = reference.summary_mixing(query, *weights, **masks)
        assert_same(summary_mixing(query, *weights, **masks), expected)


def test_a_separate_value_is_refused():
    mixer = SummaryMixing(4, 2)
    x, y = torch.randn(2, 1, 5, 4)
    with pytest.raises(ValueError, match="SummaryMixing: value is another tensor than key"):
        mixer(x, x, y)
    mixer(x, y, y)


@pytest.mark.parametrize("mask", [None, ChunkMask(4, 1)])
def test_dropout_is_that_of_the_concatenation_drawn_for_each_frame(mask):
    # Weights that pass the concatenation through: dropped elements are zeros, others are doubled.
    weights = random_weights("full")
    merge = torch.eye(20, dtype=torch.float64), torch.full((20,), 10.0, dtype=torch.float64)
    x = torch.randn(2, 300, 6, dtype=torch.float64)
    clean = summary_mixing(x, *weights[:2], merge, attn_mask=mask) - 10  # GELU(y + 10) = y + 10
    dropped = summary_mixing(x, *weights[:2], merge, attn_mask=mask, dropout=0.5) - 10
    kept = dropped.abs() > 1e-9
    torch.testing.assert_close(dropped[kept], 2 * clean[kept], rtol=1e-6, atol=1e-6)
    share = kept.double().mean((0, 1))
    assert ((share - 0.5).abs() < 0.1).all()  # of 600 frames, for each element
    assert kept.any(1).all()  # the mean is dropped frame by frame
    assert not kept.all(1).any()


@pytest.mark.parametrize("mask", [None, ChunkMask(1), ChunkMask(500, 40)])
def test_sums_over_time_are_in_fp32(mask):
    mixer = SummaryMixing(8, 2, "lite").eval()
    with torch.no_grad():
        mixer.summary_proj[-1].bias.fill_(50.0)
        x = torch.randn(1, 15_000, 8)  # ten minutes at 25 frames a second
        assert torch.isinf(mixer(x)[0].half().sum(1)).all()  # the naive sum overflows
        expected, _ = mixer(x, attn_mask=mask)
        output, _ = mixer.half()(x.half(), attn_mask=mask)
    torch.testing.assert_close(output.float(), expected, rtol=2e-3, atol=0)


def test_dropout_is_for_training_only():
    mixer, x = SummaryMixing(8, 2, dropout=0.5), torch.randn(2, 9, 8)
    assert not torch.equal(mixer(x)[0], mixer(x)[0])
    mixer.eval()
    assert torch.equal(mixer(x)[0], mixer(x)[0])
    lite = SummaryMixing(8, 2, "lite", dropout=0.5)
    assert torch.equal(lite(x)[0], lite(x)[0])


def test_sizes_are_those_of_the_paper():
    mixer = SummaryMixing(632, 8)
    shapes = {name: tuple(tensor.shape) for name, tensor in mixer.named_parameters()}
    assert shapes == {
        "summary_proj.0.weight": (8, 79, 64),
        "summary_proj.0.bias": (8, 64),
        "summary_proj.1.weight": (8, 64, 79),
        "summary_proj.1.bias": (8, 79),
        "local_proj.0.weight": (8, 79, 64),
        "local_proj.0.bias": (8, 64),
        "local_proj.1.weight": (8, 64, 64),
        "local_proj.1.bias": (8, 64),
        "merge_proj.weight": (632, 512 + 632),
        "merge_proj.bias": (632,),
    }
    assert mixer.dropout == 0.1
    deep = SummaryMixing(8, 2, local_proj_hid_dim=[4, 6, 10], summary_hid_dim=(2, 12))
    assert [tuple(layer.weight.shape) for layer in deep.summary_proj] == [
        (2, 4, 1),
        (2, 1, 6),
        (2, 6, 4),
    ]
    assert len(deep.local_proj) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "mode is 'fast': choose one of full, lite"),
        ({"activation": "relu"}, "activation is 'relu': choose one of gelu, swish"),
        ({"layer_norm": "yes"}, "layer_norm is 'yes': give True or False"),
        ({"nhead": 0}, "nhead is 0: give a whole number of at least 1"),
        ({"d_model": 8.0}, "d_model is 8.0: give a whole number of at least 1"),
        ({"d_model": 10}, "d_model is 10: give a multiple of nhead, which is 4"),
        ({"summary_hid_dim": [8, 6]}, "summary_hid_dim is 6: give a multiple of nhead, which is 4"),
        ({"summary_out_dim": 6}, "summary_out_dim is 6: give a multiple of nhead, which is 4"),
        ({"local_proj_hid_dim": "8"}, "local_proj_hid_dim is '8': give a whole number of at least"),
        ({"local_proj_out_dim": 6}, "local_proj_out_dim is 6: give a multiple of nhead, which is"),
        (
            {"mode": "lite", "summary_out_dim": 12},
            "summary_out_dim is 12: the summary is the output of mode lite; leave it out, or give "
            "d_model, 8",
        ),
    ],
)
def test_bad_options_are_quoted(options, message):
    with pytest.raises(ValueError, match="SummaryMixing: ") as error:
        SummaryMixing(**{"d_model": 8, "nhead": 4, **options})
    assert str(error.value).startswith(f"SummaryMixing: {message}")


def test_options_are_printed():
    text = repr(SummaryMixing(8, 2))
    assert "d_model=8, nhead=2, mode='full'" in text
    assert "2 blocks of 4 to 256" in text
