"""SpeechBrain's own types: bit for bit the same with the plugin, without it, and after it."""

import json
import os
import subprocess
import sys

import pytest
import torch
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

import speechbrain_pom
from speechbrain_pom.attention import patches

# Runs in a fresh process: what SpeechBrain's own types compute, as text. "plugin" as the argument
# imports the plugin first, under supervision.
SCRIPT = """
import hashlib, json, os, sys, tempfile
import torch
import speechbrain
from speechbrain.lobes.models import dual_path, resepformer
from speechbrain.lobes.models.transformer import Branchformer, Conformer, Transformer
from speechbrain.lobes.models.transformer import TransformerASR as asr
from speechbrain.lobes.models.transformer import TransformerLM as lm
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

def attributes():
    owners = [asr, lm, Conformer, Transformer, Branchformer, dual_path, resepformer]
    owners += [speechbrain.core]
    owners += [c for o in owners for c in vars(o).values() if isinstance(c, type)]
    return [(owner, dict(vars(owner))) for owner in owners]

def changed(before):
    return sorted({
        f"{getattr(owner, '__name__', owner)}.{name}"
        for owner, values in before
        for name, value in values.items()
        if vars(owner).get(name) is not value
    })

def captured(function):
    with tempfile.TemporaryFile() as file:
        saved = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        function()
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(saved[0], 1), os.dup2(saved[1], 2)
        file.seek(0)
        return file.read().decode()

report = {}
if sys.argv[1] == "plugin":
    before = attributes()
    report["output"] = captured(lambda: __import__("speechbrain_pom"))
    import speechbrain_pom
    report["wrapped"] = changed(before)
    asr.TransformerASR(3, 4, 8, 2, 1, 0, 8, causal=False)  # built once, a class is wrapped further
    report["wrapped_by_use"] = changed(before)
    speechbrain_pom.unregister()
    report["left"] = changed(before)
    speechbrain_pom.register()
    speechbrain_pom.register()
    speechbrain_pom.unregister()
    report["left_after_registering_twice"] = changed(before)
    speechbrain_pom.register()

def digest(tensors):
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()

def compute(attention_type, encoder_module, causal):
    torch.manual_seed(1)
    model = asr.TransformerASR(
        10, 20, 16, 2, 2, 1, 32, 0.1, kernel_size=7, csgu_linear_units=32, normalize_before=True,
        encoder_module=encoder_module, attention_type=attention_type, causal=causal,
    )
    frames, lengths = torch.randn(2, 20, 20), torch.tensor([1.0, 0.6])
    outputs = [*model(frames, torch.randint(1, 10, (2, 4)), lengths)]  # with dropout
    sum(o.sum() for o in outputs).backward()
    model.eval()
    outputs.append(model.encode(frames, lengths))
    if encoder_module == "conformer" and not causal:
        config = DynChunkTrainConfig(4, 1)
        outputs.append(model.encode(frames, lengths, dynchunktrain_config=config))
    state = model.state_dict()
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [list(state), digest(state.values()), digest(outputs), digest(gradients), hooks]

report["computed"] = {
    f"{name} {module} {causal}": compute(name, module, causal)
    for module in ("conformer", "transformer", "branchformer")
    for causal in (False, True)
    for name in ("regularMHA", "RelPosMHAXL", "RoPEMHA", "hypermixing")
    if not (module == "branchformer" and name == "RoPEMHA")
}
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The script's reports, with and without the plugin, and what compilers left behind."""
    caches = tmp_path_factory.mktemp("caches")
    script = tmp_path_factory.mktemp("script") / "builtin.py"
    script.write_text(SCRIPT)
    names = ("TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR")
    root = os.path.dirname(os.path.dirname(speechbrain_pom.__file__))
    environment = {
        **os.environ,
        **{name: str(caches / name) for name in names},
        "PATH": "",  # there is no compiler
        "PYTHONPATH": root,
        "OMP_NUM_THREADS": "1",
    }
    processes = {
        kind: subprocess.Popen(
            [sys.executable, str(script), kind],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for kind in ("plain", "plugin")
    }
    results = {}
    for kind, process in processes.items():
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        results[kind] = json.loads(output.splitlines()[-1])
    results["cached"] = [path for path in caches.rglob("*") if path.is_file()]
    return results


def test_outputs_gradients_and_state_dicts_are_bit_identical(reports):
    plain, plugin = reports["plain"]["computed"], reports["plugin"]["computed"]
    assert len(plain) == 22
    assert plugin == plain
    digests = {values[2] for values in plain.values()}
    # They tell all apart, but hypermixing, causal or not, beside no causal convolution.
    assert len(digests) == 22 - 2


def test_import_prints_nothing_and_compiles_nothing(reports):
    assert reports["plugin"]["output"] == ""
    assert reports["cached"] == []


def test_unregister_puts_the_very_same_objects_back(reports):
    assert reports["plugin"]["left"] == []
    assert reports["plugin"]["left_after_registering_twice"] == []
    wrapped = set(reports["plugin"]["wrapped"])
    assert len(wrapped) == len(patches.PATCHES)
    assert set(reports["plugin"]["wrapped_by_use"]) - wrapped == {"TransformerASR._init_params"}


def build(attention_type):
    torch.manual_seed(0)
    return TransformerASR(
        10,
        20,
        16,
        2,
        2,
        0,
        32,
        kernel_size=7,
        normalize_before=True,
        encoder_module="conformer",
        attention_type=attention_type,
        causal=False,
    )


def test_without_the_plugin_in_the_same_process(without_plugin):
    inputs = torch.randn(2, 20, 20), torch.tensor([1.0, 0.6])
    outputs = {}
    for attention_type in ("regularMHA", "RelPosMHAXL", "RoPEMHA", "hypermixing"):
        model = build(attention_type)
        outputs[attention_type] = list(model.state_dict()), model.eval().encode(*inputs)
    speechbrain_pom.register()
    for attention_type, (names, output) in outputs.items():
        model = build(attention_type)
        assert list(model.state_dict()) == names
        assert torch.equal(model.eval().encode(*inputs), output)
        same = build(f"{attention_type}*2")  # one built-in type, written as a sum
        assert list(same.state_dict()) == names
        assert torch.equal(same.eval().encode(*inputs), output)


def test_unregistered_speechbrain_knows_no_specs(without_plugin):
    with pytest.raises(AssertionError):
        build("PoM")
    speechbrain_pom.register()
    build("PoM")


def test_models_that_exist_keep_working_without_the_plugin():
    model = build("PoM").eval()
    inputs = torch.randn(2, 20, 20), torch.tensor([1.0, 0.6])
    config = DynChunkTrainConfig(4, 1)
    with torch.no_grad():
        before = model.encode(*inputs), model.encode(*inputs, dynchunktrain_config=config)
        speechbrain_pom.unregister()
        try:
            after = model.encode(*inputs), model.encode(*inputs, dynchunktrain_config=config)
        finally:
            speechbrain_pom.register()
    assert all(map(torch.equal, before, after))


def test_registering_twice_wraps_once():
    wrapped = [getattr(owner, name) for owner, name, _ in patches.PATCHES]
    speechbrain_pom.register()
    assert all(
        getattr(owner, name) is function
        for (owner, name, _), function in zip(patches.PATCHES, wrapped, strict=True)
    )
