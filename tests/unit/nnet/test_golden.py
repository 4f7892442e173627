"""The mixer against numbers of the publication's own code (source: tests/data/golden/README.md)."""

import numpy as np
import pytest
import torch

from speechbrain_pom import PolynomialMixer
from tests.helpers import ROOT

GOLDEN = ROOT / "tests/data/golden"
FILES = sorted(GOLDEN.glob("pom_*.npz"))
TOLERANCE = 1e-9  # relative, float64

# Where the published parameters live in ours, written out independently of the package's table.
OUR_NAMES = {
    "mh_pom.po_proj": "poly_proj.0",
    "mh_pom.po_proj_hf": "poly_proj.0",
    "mh_pom.po_proj_bf": "poly_proj.1",
    "mh_pom.se_proj": "gate_proj.0",
    "mh_pom.se_proj_hf": "gate_proj.0",
    "mh_pom.se_proj_bf": "gate_proj.1",
    "mh_pom.ag_proj": "out_proj",
    "layer_norm": "norm",
}


def our_name(published):
    module, kind = published.rsplit(".", 1)
    return f"{OUR_NAMES[module]}.{kind}"


def load(path):
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def published_state(golden):
    return {
        name.removeprefix("param/"): tensor
        for name, tensor in golden.items()
        if name.startswith("param/")
    }


def mixer_for(path, golden):
    variant = path.stem.split("_")[1]
    mixer = PolynomialMixer(
        int(golden["d_model"]), int(golden["degree"]), int(golden["expand"]), variant
    )
    return mixer.double()


def assert_same(found, expected):
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def assert_golden(mixer, golden, our_name, **call):
    """The output and all gradients are those of the published code."""
    x = golden["x"].clone().requires_grad_()

    output, weights = mixer(x, x, x, **call)
    (output * golden["loss_weight"]).sum().backward()

    assert weights is None
    assert_same(output, golden["y"])
    assert_same(x.grad, golden["grad_x"])
    gradients = {name: parameter.grad for name, parameter in mixer.named_parameters()}
    for name, expected in golden.items():
        if name.startswith("grad/"):
            assert_same(gradients.pop(our_name(name.removeprefix("grad/"))), expected)
    assert not gradients  # every parameter was compared


def test_there_are_golden_files():
    variants = {path.stem.split("_")[1] for path in FILES}
    assert variants == {"base", "selective", "frequency2"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_output_and_all_gradients_equal_the_published_code(path):
    golden = load(path)
    mixer = mixer_for(path, golden)
    mixer.load_state_dict(published_state(golden), strict=True)
    assert_golden(mixer, golden, our_name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_blocks_without_gradients_equal_the_published_code(path):
    golden = load(path)
    mixer = mixer_for(path, golden)
    mixer.load_state_dict(published_state(golden), strict=True)
    with torch.no_grad():
        assert_same(mixer(golden["x"])[0], golden["y"])


def test_published_names_load_inside_a_larger_model():
    golden = load(GOLDEN / "pom_base_k2_D2.npz")
    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([mixer_for(FILES[0], golden)])})
    state = {f"layers.0.{name}": tensor for name, tensor in published_state(golden).items()}
    assert str(model.load_state_dict(state, strict=True)) == "<All keys matched successfully>"
    assert_same(model["layers"][0](golden["x"])[0], golden["y"])


def test_published_names_of_three_groups_load_in_their_order():
    """There are no numbers of this variant; its equations are short."""
    groups = (slice(0, 4), slice(4, 8), slice(8, 13))
    state = {"layer_norm.weight": torch.randn(13), "layer_norm.bias": torch.randn(13)}
    state |= {"mh_pom.ag_proj.weight": torch.randn(13, 52), "mh_pom.ag_proj.bias": torch.randn(13)}
    for number, width in enumerate((4, 4, 5), start=1):
        for kind in ("po", "se"):
            state[f"mh_pom.{kind}_proj_{number}.weight"] = torch.randn(4 * width, width)
            state[f"mh_pom.{kind}_proj_{number}.bias"] = torch.randn(4 * width)
    state = {name: tensor.double() for name, tensor in state.items()}
    mixer = PolynomialMixer(13, degree=2, expand=2, variant="frequency3").double()
    mixer.load_state_dict(dict(state), strict=True)

    def linear(x, name):
        return x @ state[f"mh_pom.{name}.weight"].T + state[f"mh_pom.{name}.bias"]

    x, gated = torch.randn(2, 63, 13, dtype=torch.float64), []
    for number, group in enumerate(groups, start=1):
        first, second = torch.nn.functional.gelu(linear(x[..., group], f"po_proj_{number}")).chunk(
            2, dim=-1
        )
        mean = torch.cat([first, first * second], -1).mean(1, keepdim=True)
        gated.append(linear(x[..., group], f"se_proj_{number}").sigmoid() * mean)
    norm = state["layer_norm.weight"], state["layer_norm.bias"]
    mixed = linear(torch.cat(gated, -1), "ag_proj")
    assert_same(mixer(x)[0], torch.nn.functional.layer_norm(mixed, (13,), *norm))


def test_strict_loading_still_notices_a_missing_and_a_foreign_parameter():
    golden = load(GOLDEN / "pom_base_k2_D2.npz")
    state = published_state(golden)
    state["mh_pom.other.weight"] = state.pop("mh_pom.ag_proj.bias")
    with pytest.raises(RuntimeError, match=r"out_proj\.bias") as error:
        mixer_for(FILES[0], golden).load_state_dict(state, strict=True)
    assert "mh_pom.other.weight" in str(error.value)
