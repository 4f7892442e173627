"""The attention spec: what it means, and one clear line for everything else."""

import sys

import pytest

from speechbrain_pom.attention import LayerSpec, parse_spec

POM3 = "PoM(degree=3)"
AVAILABLE = (
    ". Available: Fastformer, Mamba, PoM, RelPosMHAXL, RoPEMHA, SummaryMixing, hypermixing, "
    "regularMHA"
)


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("PoM", ["PoM"] * 4),
        (" PoM\n", ["PoM"] * 4),
        ("regularMHA", ["regularMHA"] * 4),
        ("PoM()", ["PoM"] * 4),
        ("PoM(3)", [POM3] * 4),
        ("PoM(3, 1)", ["PoM(degree=3, expand=1)"] * 4),
        ("PoM(expand=1,degree=3)", ["PoM(expand=1, degree=3)"] * 4),
        ("PoM(3, variant=selective)", ["PoM(degree=3, variant='selective')"] * 4),
        ("PoM(3, variant='selective')", ["PoM(degree=3, variant='selective')"] * 4),
        ("PoM*4", ["PoM"] * 4),
        ("4*PoM(3)", [POM3] * 4),
        ("RelPosMHAXL + PoM*3", ["RelPosMHAXL", "PoM", "PoM", "PoM"]),
        ("RelPosMHAXL*2+PoM(degree=3)+RoPEMHA", ["RelPosMHAXL"] * 2 + [POM3, "RoPEMHA"]),
        ("PoM + (RoPEMHA*2 + PoM)", ["PoM", "RoPEMHA", "RoPEMHA", "PoM"]),
    ],
)
def test_specs(spec, layers):
    parsed = parse_spec(spec, 4)
    assert [str(layer) for layer in parsed] == layers
    assert parse_spec(" + ".join(layers), 4) == parsed  # what is printed can be read


def test_layers_know_what_they_are():
    builtin, ours = parse_spec("RoPEMHA + PoM(3)", 2)
    assert builtin == LayerSpec("RoPEMHA")
    assert builtin.is_builtin
    assert ours == LayerSpec("PoM", (("degree", 3),))
    assert not ours.is_builtin


MANGLED = (
    "SpeechBrain's command line splits values at '=' and leaves this; write the options by "
    "position, as in PoM(3, 2), or start the recipe with 'python -m speechbrain_pom run', which "
    "keeps values as they are"
)
NO_LAYER = "is neither a name, a name with options, NAME*COUNT, nor a sum of those"
NO_COUNT = "is not a number of layers (a whole number of at least 1)"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("PoMM", "unknown type 'PoMM' at column 1 (closest: PoM)"),
        ("PoM + relposmhaxl*3", "unknown type 'relposmhaxl' at column 7"),
        ("RelPosMHA", "unknown type 'RelPosMHA' at column 1 (closest: RelPosMHAXL)"),
        (
            "PoM(degre=3)",
            "unknown option 'degre' at column 5 (closest: degree); PoM takes degree, expand, "
            "variant, recompute, backend, init_gain",
        ),
        (
            "PoM(**x)",
            "unknown option '**' at column 5; PoM takes degree, expand, variant, recompute, "
            "backend, init_gain",
        ),
        (
            "PoM(3, 2, 'base', True, 'auto', 1, 4)",
            "7 options by position at column 1; PoM takes degree, expand, variant, recompute, "
            "backend, init_gain",
        ),
        ("PoM + PoM(3, degree=2)", "option 'degree' is given twice at column 14"),
        (
            "PoM + RelPosMHAXL(2)",
            "RelPosMHAXL is SpeechBrain's own and takes no options here at column 7",
        ),
        ("PoM*0", f"'0' {NO_COUNT} at column 5"),
        ("PoM*-1", f"'-1' {NO_COUNT} at column 5"),
        ("PoM*True", f"'True' {NO_COUNT} at column 5"),
        ("1.5*PoM", f"'1.5' {NO_COUNT} at column 1"),
        ("PoM*four", f"'four' {NO_COUNT} at column 5"),
        ("PoM - PoM", f"'PoM - PoM' {NO_LAYER} at column 1"),
        ("RoPEMHA + PoM.x", f"'PoM.x' {NO_LAYER} at column 11"),
        ("PoM*2*2", f"'PoM*2' {NO_LAYER} at column 1"),
        ("(PoM + PoM)*2", f"'PoM + PoM' {NO_LAYER} at column 2"),
        ("PoM(3)(2)", f"'PoM(3)(2)' {NO_LAYER} at column 1"),
        ("3", f"'3' {NO_LAYER} at column 1"),
        ("PoM(1 + 1)", "'1 + 1' is not a plain value at column 5"),
        ("PoM(*x)", "'*x' is not a plain value at column 5"),
        ("PoM(degree 3)", MANGLED),
        ("PoM(degree 3, expand 2)", MANGLED),
        ("RelPosMHAXL*2 + PoM(3, expand 2)*2", MANGLED),
        ("", "not a spec: give a name, a name with options, or a sum of such terms"),
        ("   ", "not a spec: give a name, a name with options, or a sum of such terms"),
        (None, "not a spec: give a name, a name with options, or a sum of such terms"),
        (["PoM"], "not a spec: give a name, a name with options, or a sum of such terms"),
    ],
)
def test_errors_quote_the_spec_and_list_what_exists(spec, problem):
    with pytest.raises(ValueError, match="attention_type") as error:
        parse_spec(spec, 4)
    assert str(error.value) == f"attention_type {spec!r}: {problem}{AVAILABLE}"


@pytest.mark.parametrize("spec", ["PoM(", "PoM(3", "PoM +", "PoM; PoM", "PoM PoM", "PoM\0"])
def test_text_that_is_no_expression(spec):
    with pytest.raises(
        ValueError, match="attention_type"
    ) as error:  # the rest of the text is Python's own
        parse_spec(spec, 4)
    message = str(error.value)
    assert message.startswith(f"attention_type {spec!r}: cannot read it from column ")
    assert message.endswith(AVAILABLE)
    assert "\n" not in message


def test_text_that_is_too_deep_for_python():
    with pytest.raises(ValueError, match=r"': nested too deeply\. Available: ") as error:
        parse_spec("-" * 5000 + "PoM", 4)
    assert str(error.value).endswith(AVAILABLE)


@pytest.mark.parametrize(
    ("spec", "sum_text"),
    [
        ("RelPosMHAXL*4 + PoM*8", "4 + 8 = 12"),
        ("PoM*3", "3 = 3"),
        ("PoM + PoM", "1 + 1 = 2"),
    ],
)
def test_counts_must_add_up(spec, sum_text):
    with pytest.raises(ValueError, match="attention_type") as error:
        parse_spec(spec, 4)
    assert str(error.value) == (
        f"attention_type {spec!r}: its counts add up to {sum_text} layers, the encoder has 4"
    )


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('sys').modules.setdefault('evaluated', 1)",
        "PoM(__import__('sys').modules.setdefault('evaluated', 1))",
        "PoM(degree=[__import__('sys').modules.setdefault('evaluated', 1)])",
        "PoM*__import__('sys').modules.setdefault('evaluated', 1)",
        "(lambda: __import__('sys').modules.setdefault('evaluated', 1))()",
        "PoM(f\"{__import__('sys').modules.setdefault('evaluated', 1)}\")",
    ],
)
def test_nothing_is_evaluated(expression):
    with pytest.raises(ValueError, match="attention_type"):
        parse_spec(expression, 4)
    assert "evaluated" not in sys.modules


@pytest.mark.parametrize(
    "spec",
    [
        "(" * 5000 + "PoM" + ")" * 5000,
        "PoM + " * 5000 + "PoM",
        "PoM + " * 950 + "PoM",
        "-" * 20_000 + "1",
        "PoM(" + "[" * 3000 + "]" * 3000 + ")",
        "PoM(9**9**9**9)",
        "PoM*9**9**9",
    ],
)
def test_enormous_specs_are_refused_at_once(spec):
    with pytest.raises(ValueError, match="attention_type"):
        parse_spec(spec, 4)


def test_types_of_others_are_listed_and_their_options_known(registered):
    registered("Mine", lambda d_model, window=5, *, mode="a", nhead=1: None)
    (layer,) = parse_spec("Mine(7, mode=b)", 1)
    assert layer.options == (("window", 7), ("mode", "b"))
    with pytest.raises(ValueError, match="attention_type") as error:  # nhead comes from the encoder
        parse_spec("Mine(nhead=2)", 1)
    assert "unknown option 'nhead' at column 6; Mine takes window, mode" in str(error.value)
    registered("Plain", lambda d_model: None)
    with pytest.raises(
        ValueError, match="1 options by position at column 1; Plain takes no options"
    ):
        parse_spec("Plain(2)", 1)
