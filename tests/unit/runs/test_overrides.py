"""Values of the command line reach the recipe as they were written."""

import pytest
import speechbrain
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.run_opts import RunOptions

from speechbrain_pom.runs.overrides import overrides_to_yaml, verbatim_command_line

HPARAMS = "value: null\nother: 1\ntest: null\noptimizer: null\nmapping: {c: 0}\n"

STRINGS = [
    "PoM(degree=3)",
    "RelPosMHAXL*1 + PoM(degree=3, expand=2)*1",
    "/data/a=b/c==d",
    "=",
    "a: b #c  d",
    "- item",
    "-hello",
    "--looks --like=options",
    "say \"hi\" and 'there'",
    "back\\slash\\u003d",
    "two\nlines",
    "2024-01-31",
    "12:30:45",
    "a, b] }",
    "*anchor",
    "&anchor",
    "@at %percent `tick`",
    "Zürich=☃",
    " spaces around ",
    "",
]


def arrives(arguments, key="value"):
    """What a recipe gets for a key, through SpeechBrain's own two steps."""
    with verbatim_command_line():
        _, _, overrides = speechbrain.parse_arguments(["x.yaml", *arguments])
    return load_hyperpyyaml(HPARAMS, overrides)[key]


@pytest.mark.parametrize("text", STRINGS)
def test_strings_arrive_verbatim_after_equals(text):
    assert arrives([f"--value={text}", "--other", "2"]) == text


@pytest.mark.parametrize("text", [text for text in STRINGS if not text.startswith("-")])
def test_strings_arrive_verbatim_as_an_argument_of_their_own(text):
    assert arrives(["--value", text, "--other", "2"]) == text


def test_speechbrain_alone_changes_them():
    """The guard: without the context manager the same values arrive changed."""
    for text in ("PoM(degree=3)", "a: b #c  d", "/data/a=b"):
        _, _, overrides = speechbrain.parse_arguments(["x.yaml", f"--value={text}"])
        try:
            changed = load_hyperpyyaml(HPARAMS, overrides)["value"] != text
        except Exception:  # not even YAML
            changed = True
        assert changed, text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("-2.5", -2.5),
        ("-1e-3", -0.001),
        ("True", True),
        ("null", None),
        ("'10'", "10"),
        ('"a=b"', "a=b"),
        ("[1, a=b, 'c d']", [1, "a=b", "c d"]),
        ("!ref <other>", 1),
        ("!ref <other>/x=y", "1/x=y"),
    ],
)
@pytest.mark.parametrize("with_equals", [True, False])
def test_values_are_typed_as_in_yaml(text, value, with_equals):
    arrived = arrives([f"--value={text}"] if with_equals else ["--value", text])
    assert arrived == value
    assert isinstance(arrived, type(value))


def test_mappings_update_mappings():
    arrived = arrives(["--mapping", "{a: x=1, b: [2, 3=3]}"], key="mapping")
    assert arrived == {"a": "x=1", "b": [2, "3=3"], "c": 0}


def test_words_without_quotes_are_joined_and_a_bare_key_is_null():
    assert arrives(["--value", "two", "words"]) == "two words"
    assert arrives(["--other"], key="other") is None


def test_a_value_without_a_key_is_refused(capsys):
    with verbatim_command_line(), pytest.raises(SystemExit) as stop:
        speechbrain.parse_arguments(["x.yaml", "stray"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: unexpected argument 'stray': overrides are --key value\n"
    )


def test_a_key_that_is_given_twice_is_refused(capsys):
    with verbatim_command_line(), pytest.raises(SystemExit) as stop:
        speechbrain.parse_arguments(["x.yaml", "--lr=1", "--lr", "2"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: --lr is given twice: write it once\n"


def test_keys_of_sections_become_mappings(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("model: {size: 1, deep: {rate: 2, items: [3, 4]}}\nlr: 5\n")
    arguments = ["--model.deep.rate=a=b, #c", "--lr", "6", "--model.deep.items.1", "x: y"]
    with verbatim_command_line():
        _, _, overrides = speechbrain.parse_arguments([str(path), "--device=cpu", *arguments])
    with open(path) as stream:
        hparams = load_hyperpyyaml(stream, overrides)
    deep = {"rate": "a=b, #c", "items": [3, "x: y"]}
    assert hparams == {"model": {"size": 1, "deep": deep}, "lr": 6}


def test_no_overrides_are_an_empty_text():
    assert overrides_to_yaml([]) == ""


def test_run_options_are_typed_and_flags_work():
    arguments = ["x.yaml", "--max_grad_norm", "10", "--optimizer_step_limit=20", "--debug"]
    arguments += ["--precision=bf16", "--jit_module_keys", "a", "b", "--device", "cpu", "--lr=1"]
    with verbatim_command_line():
        yaml, options, overrides = speechbrain.parse_arguments(arguments)
    assert (yaml, overrides) == ("x.yaml", "lr: 1")
    assert options.max_grad_norm == 10.0
    assert options.optimizer_step_limit == 20
    assert options.debug is True
    assert options.precision == "bf16"
    assert options.jit_module_keys == ["a", "b"]
    assert {"max_grad_norm", "optimizer_step_limit", "debug"} <= options.overridden_args


def test_keys_that_start_like_a_run_option_are_keys():
    """SpeechBrain alone takes --test for --test_only and --optimizer for its step limit."""
    assert arrives(["--test=clean"], key="test") == "clean"
    assert arrives(["--optimizer", "adam"], key="optimizer") == "adam"
    with verbatim_command_line():
        _, options, overrides = speechbrain.parse_arguments(["x.yaml", "--prec", "bf16"])
    assert options.precision == "fp32"
    with pytest.raises(KeyError, match="Override 'prec' not found"):
        load_hyperpyyaml(HPARAMS, overrides)


def test_speechbrain_is_restored():
    before = dict(vars(RunOptions))
    with pytest.raises(RuntimeError), verbatim_command_line():
        raise RuntimeError
    assert dict(vars(RunOptions)) == before
