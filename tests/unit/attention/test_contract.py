"""Every internal of SpeechBrain that the plugin relies on: a new SpeechBrain shows what moved."""

import ast
import inspect
import textwrap

import pytest
import torch
from speechbrain import Brain, __version__
from speechbrain.lobes.models import dual_path, resepformer
from speechbrain.lobes.models.transformer import Branchformer, Conformer, Transformer
from speechbrain.lobes.models.transformer import TransformerASR as asr
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM
from speechbrain.nnet.attention import RelPosEncXL
from speechbrain.nnet.CNN import Conv1d
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_pom.attention import patches, registry

RELIED_ON = f"(SpeechBrain {__version__}; used in speechbrain_pom/attention/%s)"


def parameters(function):
    return inspect.signature(function).parameters


def tree_of(function):
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))


def test_supported_versions():
    patches.check_version()
    patches.check_version("1.1.2")
    patches.check_version("1.1.99")


@pytest.mark.parametrize("version", ["1.0.3", "1.1.1", "1.2.0", "2.0"])
def test_other_versions_are_refused_with_what_to_install(version):
    with pytest.raises(ImportError) as error:
        patches.check_version(version)
    assert str(error.value) == (
        f"speechbrain-pom works with speechbrain>=1.1.2,<1.2, found {version}: "
        'pip install "speechbrain>=1.1.2,<1.2"'
    )


def test_the_list_of_types_inside_transformer_interface():
    lists = [
        ast.literal_eval(node.test.comparators[0])
        for node in ast.walk(tree_of(Transformer.TransformerInterface.__init__))
        if isinstance(node, ast.Assert)
        and isinstance(node.test, ast.Compare)
        and getattr(node.test.left, "id", None) == "attention_type"
    ]
    assert lists, (
        "TransformerInterface no longer asserts attention_type " + RELIED_ON % "patches.py"
    )
    assert set(lists[0]) == set(registry.BUILTIN_TYPES), (
        "TransformerInterface accepts other attention types than BUILTIN_TYPES lists "
        + RELIED_ON % "registry.py"
    )
    assert patches.STAND_IN in lists[0]


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (
            Transformer.TransformerInterface,
            "attention_type num_encoder_layers d_model max_length positional_encoding",
        ),
        *((encoder, "attention_type num_layers d_model") for encoder in patches.ENCODERS),
        (Conformer.ConformerEncoderLayer, "attention_type d_model nhead dropout causal d_ffn"),
        (Transformer.TransformerEncoderLayer, "attention_type d_model nhead dropout causal d_ffn"),
        (Branchformer.BranchformerEncoderLayer, "attention_type d_model nhead dropout"),
        (Transformer.TransformerDecoderLayer, "attention_type"),
        (Conformer.ConformerDecoderLayer, "attention_type"),
        (dual_path.FastTransformerBlock, "attention_type num_layers"),
        (
            dual_path.SBConformerEncoderBlock,
            "attention_type num_layers use_positional_encoding",
        ),
        (dual_path.SBTransformerBlock, "attention_type num_layers"),
        (resepformer.SBTransformerBlock_wnormandskip, "attention_type num_layers"),
        (TransformerLM, "attention_type num_encoder_layers"),
        (Brain, "modules hparams"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_parameters_of_constructors(owner, names):
    for name in names.split():
        assert name in parameters(owner.__init__), (
            f"{owner.__name__} has no parameter {name!r} " + RELIED_ON % "patches.py"
        )


@pytest.mark.parametrize(
    "owner", [owner for owner, name, _ in patches.PATCHES if name == "__init__"]
)
def test_constructors_are_those_of_the_class_itself(owner):
    assert "__init__" in vars(owner), (
        f"{owner.__name__} inherits __init__: wrapping it would wrap its parent's "
        + RELIED_ON % "patches.py"
    )


def layer_of(layer_class, **options):
    if layer_class is Branchformer.BranchformerEncoderLayer:
        options |= {"csgu_linear_units": 8, "kernel_size": 3}
        return layer_class(8, 2, attention_type="regularMHA", **options)
    return layer_class(d_model=8, d_ffn=8, nhead=2, attention_type="regularMHA", **options)


@pytest.mark.parametrize("layer_class", patches.LAYERS)
def test_attributes_of_layers(layer_class):
    layer = layer_of(layer_class)
    paths = {
        Conformer.ConformerEncoderLayer: ["mha_layer", "convolution_module.bottleneck"],
        Transformer.TransformerEncoderLayer: ["self_att", "pos_ffn"],
        Branchformer.BranchformerEncoderLayer: ["mha_layer", "convolution_branch.csgu.conv"],
    }[layer_class]
    for path in paths:
        try:
            layer.get_submodule(path)
        except AttributeError:
            pytest.fail(f"{layer_class.__name__} has no {path} " + RELIED_ON % "padding.py")
    assert patches.mixer_of(layer) is layer.get_submodule(paths[0])


@pytest.mark.parametrize("layer_class", patches.LAYERS)
def test_forward_of_layers(layer_class):
    names = list(parameters(layer_class.forward))
    assert names.index("src_key_padding_mask") == 3, (  # self, x, src_mask come first
        f"{layer_class.__name__}.forward: src_key_padding_mask has moved "
        + RELIED_ON % "padding.py"
    )
    assert "pos_embs" in names, (
        f"{layer_class.__name__}.forward has no pos_embs " + RELIED_ON % "positions.py"
    )


@pytest.mark.parametrize("layer_class", patches.LAYERS)
def test_layers_call_their_mixer_as_documented(layer_class):
    layer, calls = layer_of(layer_class), []
    mixer = patches.mixer_of(layer)

    def record(module, args, kwargs):
        calls.append((args, kwargs))

    mixer.register_forward_pre_hook(record, with_kwargs=True)
    padding = torch.zeros(1, 5, dtype=torch.bool)
    layer(torch.randn(1, 5, 8), torch.zeros(5, 5, dtype=torch.bool), padding)
    ((query, key, value), keywords) = calls[0]
    assert query is key is value, "the mixer's value is not its key " + RELIED_ON % "registry.py"
    assert set(keywords) == {"attn_mask", "key_padding_mask", "pos_embs"}, (
        f"{layer_class.__name__} calls its mixer with other arguments " + RELIED_ON % "registry.py"
    )


@pytest.mark.parametrize("encoder_class", patches.ENCODERS)
def test_encoders_pass_positions_and_padding_by_name(encoder_class):
    calls = [
        {keyword.arg for keyword in node.keywords}
        for node in ast.walk(tree_of(encoder_class.forward))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "enc_layer"
    ]
    assert calls, f"{encoder_class.__name__}.forward calls no enc_layer"
    assert all({"pos_embs", "src_key_padding_mask"} <= names for names in calls), (
        f"{encoder_class.__name__} no longer passes pos_embs by name " + RELIED_ON % "positions.py"
    )
    names = list(parameters(encoder_class.forward))
    assert names[1] == "src"
    assert names.index("pos_embs") == 4, (
        f"{encoder_class.__name__}.forward: pos_embs has moved " + RELIED_ON % "positions.py"
    )


def test_conformer_convolution_pads_with_zeros_after_the_bottleneck():
    module = Conformer.ConvolutionModule(4, kernel_size=5)
    assert module.conv.padding_mode == "zeros", (
        "the Conformer's depthwise convolution no longer pads with zeros "
        + RELIED_ON % "padding.py"
    )
    order = []
    for name in ("bottleneck", "conv"):
        module.get_submodule(name).register_forward_hook(
            lambda m, args, output, name=name: order.append((name, tuple(output.shape)))
        )
    module(torch.randn(2, 9, 4))
    assert order == [("bottleneck", (2, 4, 9)), ("conv", (2, 4, 9))], (
        "the Conformer's convolution no longer is bottleneck (B, C, T), then conv "
        + RELIED_ON % "padding.py"
    )


def test_convolutions_that_reflect():
    csgu = layer_of(Branchformer.BranchformerEncoderLayer).convolution_branch.csgu
    ffn = layer_of(Transformer.TransformerEncoderLayer, ffn_type="1dcnn").pos_ffn
    for conv in (csgu.conv, ffn[0], ffn[2]):
        assert isinstance(conv, Conv1d)
        found = {name: getattr(conv, name, None) for name in ("padding", "padding_mode")}
        assert found == {"padding": "same", "padding_mode": "reflect"}, (
            "a convolution no longer reflects the end of the sequence " + RELIED_ON % "padding.py"
        )
        assert isinstance(conv.kernel_size, int)
        assert (conv.dilation, conv.stride) == (1, 1)
    frames = torch.arange(9.0).view(1, 9, 1).repeat(1, 1, csgu.conv.in_channels)
    conv = Conv1d(1, 5, in_channels=1, bias=False)
    torch.nn.init.ones_(conv.conv.weight)
    assert conv(frames[..., :1])[0, -1, 0] == 6 + 7 + 8 + 7 + 6


@pytest.mark.parametrize(
    ("owner", "method"),
    [(asr.TransformerASR, "_init_params"), (TransformerLM, "_reset_params")],
)
def test_models_initialise_in_a_method_of_its_own(owner, method):
    called = {
        node.func.attr
        for node in ast.walk(tree_of(owner.__init__))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert method in called, (
        f"{owner.__name__} no longer calls {method} " + RELIED_ON % "patches.py"
    )


def test_the_sines_of_dual_path_blocks():
    block = dual_path.SBTransformerBlock(1, 8, 2, use_positional_encoding=True)
    assert isinstance(block.pos_enc, Transformer.PositionalEncoding), (
        "SBTransformerBlock has no sines pos_enc " + RELIED_ON % "blocks.py"
    )


def test_masks_come_from_make_transformer_src_mask():
    names = {
        node.id
        for node in ast.walk(tree_of(asr.make_transformer_src_tgt_masks))
        if isinstance(node, ast.Name)
    }
    assert "make_transformer_src_mask" in names, (
        "make_transformer_src_tgt_masks no longer calls make_transformer_src_mask "
        + RELIED_ON % "patches.py"
    )
    assert list(parameters(asr.make_transformer_src_mask)) == [
        "src",
        "causal",
        "dynchunktrain_config",
    ]
    for method in (asr.TransformerASR.encode, asr.TransformerASR.forward):
        called = {
            getattr(node.func, "id", None)
            for node in ast.walk(tree_of(method))
            if isinstance(node, ast.Call)
        }
        assert "make_transformer_src_tgt_masks" in called
    config = DynChunkTrainConfig(4)
    assert (config.chunk_size, config.left_context_size) == (4, None)


def test_positions():
    sines = Transformer.PositionalEncoding(8, 20)
    assert (sines.max_len, tuple(sines.pe.shape)) == (20, (1, 20, 8)), (
        "PositionalEncoding has no table pe of max_len frames " + RELIED_ON % "positions.py"
    )
    assert list(sines.state_dict()) == ["pe"]
    assert RelPosEncXL(8)(torch.zeros(1, 5, 8)).shape == (1, 9, 8)


def test_the_interface_has_the_attributes_that_are_set():
    model = asr.TransformerASR(
        10,
        8,
        8,
        2,
        1,
        1,
        8,
        encoder_module="conformer",
        normalize_before=True,
        causal=False,
        attention_type="RoPEMHA",
    )
    for name in (
        "attention_type",
        "positional_encoding_type",
        "positional_encoding",
        "positional_encoding_decoder",
        "encoder",
        "causal",
    ):
        assert hasattr(model, name), (
            f"TransformerASR has no attribute {name} " + RELIED_ON % "positions.py and patches.py"
        )


def test_streaming_contexts():
    where = RELIED_ON % "contexts.py"
    encoder = Conformer.ConformerEncoder
    assert list(parameters(encoder.make_streaming_context)) == ["self", "dynchunktrain_config"], (
        "ConformerEncoder.make_streaming_context takes other arguments " + where
    )
    assert list(parameters(encoder.forward_streaming)) == ["self", "src", "context", "pos_embs"], (
        "ConformerEncoder.forward_streaming takes other arguments " + where
    )
    assert list(parameters(asr.TransformerASR.encode_streaming)) == ["self", "src", "context"], (
        "TransformerASR.encode_streaming takes other arguments " + where
    )
    names = vars(asr.TransformerASRStreamingContext)["__annotations__"]
    assert list(names) == ["dynchunktrain_config", "encoder_context"], (
        "the context of a TransformerASR holds something else " + where
    )
    assert DynChunkTrainConfig(8).left_context_size is None
