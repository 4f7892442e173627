"""The benchmarks run, at tiny sizes; the README's section is that of their results."""

import argparse
import json
import os
import re
import subprocess
import sys

import pytest
import soundfile
import torch
from torch import nn

import speechbrain_pom
from tests.helpers import ROOT

TINY = ["--threads", "1", "--repeats", "1"]


@pytest.fixture
def bench(monkeypatch):
    """Function of a name: the module of a benchmark."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    registered = set(speechbrain_pom.attention_types())
    yield __import__
    for name in set(speechbrain_pom.attention_types()) - registered:
        speechbrain_pom.unregister_attention(name)
    for path in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)  # "none" is registered again by the next import


@pytest.fixture
def run(programs, tmp_path):
    """Function of a command line: (completed process, the record it wrote or None)."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}

    def run_benchmark(script, *options):
        out = tmp_path / "out.json"
        command = [ROOT / "benchmarks" / script, *options, "--out", out]
        done = programs.run(command, env=environment)
        return done, json.loads(out.read_text()) if out.is_file() else None

    return run_benchmark


def assert_says_where_it_ran(record):
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert record["command"].startswith("python benchmarks/")
    assert {"commit", "dirty"} <= record.keys()
    assert record["machine"]["cpu"]
    assert record["machine"]["threads"] == 1
    assert record["machine"]["memory_mib"] > 0
    assert torch.__version__.startswith(record["versions"]["torch"])


def test_readme_is_that_of_the_results(programs):
    done = programs.run([ROOT / "benchmarks/report.py", "--check"])
    assert done.returncode == 0, done.stderr


def test_make_bench_runs_the_commands_of_the_report(bench):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    report = bench("report")
    for options in report.SCALING["CPU"].values():
        assert f"benchmarks/mixer_scaling.py {options}\n" in makefile
    scripts = {"mixer_op": "", "report": "", "bounds": report.BOUNDS_OPTIONS}
    scripts["lstm"] = report.LSTM_OPTIONS
    for script, options in {**scripts, "long_audio": report.LONG_AUDIO_OPTIONS}.items():
        assert f"benchmarks/{script}.py {options}".rstrip() + "\n" in makefile


@pytest.mark.slow
def test_mixer_scaling(run, tmp_path):
    options = ["--size", "small", "--lengths", "1,2", "--mode", "infer", "--mixers", "PoM"]
    done, record = run("mixer_scaling.py", *options, *TINY)
    assert done.returncode == 0, done.stderr
    assert_says_where_it_ran(record)
    found = [(point["mixer"], point["length_s"]) for point in record["points"]]
    assert found == [("PoM", 1), ("PoM", 2)]
    assert all(point["time_s"] > 0 and point["memory_mib"] >= 0 for point in record["points"])
    assert {"d_model", "parameters"} <= record["mixers"][0].keys()
    assert (tmp_path / "out.png").read_bytes()[1:4] == b"PNG"
    assert "<svg" in (tmp_path / "out.svg").read_text()


@pytest.mark.slow
def test_training_and_the_floor(run):
    options = ["--size", "small", "--lengths", "2", "--batch", "6", "--mode", "train"]
    done, record = run("mixer_scaling.py", *options, "--mixers", "PoM(degree=3)", "none", *TINY)
    assert done.returncode == 0, done.stderr
    mixer, floor = record["points"]
    assert mixer["memory_mib"] > floor["memory_mib"] > 10  # graphs of 6 utterances, gradients
    assert len(mixer["times_s"]) == 1
    assert record["mixers"][1]["parameters"] < record["mixers"][0]["parameters"]


@pytest.mark.slow
def test_mixer_op(run):
    done, record = run("mixer_op.py", "--frames", "63", "--mode", "infer", *TINY)
    assert done.returncode == 0, done.stderr
    assert_says_where_it_ran(record)
    points = {point["backend"]: point for point in record["points"]}
    assert set(points) == {"tiled", "reference"}
    point = points[record["auto_backend"]]
    assert point["ratio"] == pytest.approx(point["time_ms"] / point["products_ms"])
    assert point["roofline_ms"] == max(point["flops_ms"], point["bytes_ms"]) > 0
    assert record["limits"].keys() == {"gflops", "gbytes_per_s"}


@pytest.mark.slow
def test_long_audio(run):
    options = ["--small", "10,20", "--base", "none", "--fit_from", "10", "--keep_memory"]
    done, record = run("long_audio.py", *options, *TINY)
    assert done.returncode == 0, done.stderr
    assert_says_where_it_ran(record)
    (model,) = record["models"]
    assert [point["length_s"] for point in model["points"]] == [10, 20]
    assert {"time_exponent", "memory_exponent"} <= model.keys()
    assert record["keep_memory"] is True


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("10..80", [10, 20, 30, 40, 50, 60, 70, 80]),
        ("10..80:35", [10, 45, 80]),
        ("1,2,40", [1, 2, 40]),
        ("7", [7]),
    ],
)
def test_lengths(bench, text, lengths):
    assert bench("options").parse_lengths(text) == lengths


@pytest.mark.parametrize("text", ["", "80..10", "10..80:0", "0,1", "2,1", "1,1", "1.5", "1...3"])
def test_no_lengths(bench, text):
    options = bench("options")
    with pytest.raises(
        argparse.ArgumentTypeError, match=f"^{re.escape(repr(text))} are no lengths"
    ):
        options.parse_lengths(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lengths", "80..10"], "'80..10' are no lengths: give a range like 10..80"),
        (["--mode", "infer,test"], "'infer,test': give one or more of infer, forward, train"),
        (["--batch", "0"], "'0': give a whole number of at least 1"),
        (["--mixers", "PaM"], "unknown type 'PaM' at column 1 (closest: PoM)"),
        (["--out", "figures.png"], "--out 'figures.png': give a name that ends in .json"),
    ],
)
def test_bad_calls_are_refused(bench, monkeypatch, capsys, options, message):
    monkeypatch.setattr(sys, "argv", ["mixer_scaling.py", *options])
    with pytest.raises(SystemExit) as ended:
        bench("mixer_scaling").main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_other_bad_calls(bench, capsys):
    with pytest.raises(SystemExit):
        bench("long_audio").parse_arguments(["--base", "10,60"])
    assert "--base: [10, 60] has fewer than 2 lengths from 60 s on" in capsys.readouterr().err
    if not torch.cuda.is_available():
        for script in ("mixer_scaling", "mixer_op"):
            with pytest.raises(SystemExit):
                bench(script).parse_arguments(["--device", "cuda"])
            assert "--device cuda: PyTorch sees no GPU here" in capsys.readouterr().err


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.05, 2.0])
def test_exponents(bench, exponent):
    measuring = bench("measuring")
    lengths = [60, 600, 3600, 10800]
    found = measuring.fit_exponent(lengths, [0.01 * length**exponent for length in lengths])
    assert found == pytest.approx(exponent)
    with pytest.raises(ValueError, match="1 points have no exponent"):
        measuring.fit_exponent([60], [1.0])


def test_growth_over_the_limit_is_found(bench):
    long_audio = bench("long_audio")
    points = [{"length_s": n, "time_s": n / 50, "memory_mib": n**1.5} for n in (60, 600)]
    model = {"size": "base", "points": points, **long_audio.exponents(points, 60)}
    assert long_audio.failures([model]) == ["base: memory_exponent is 1.500, not under 1.05"]
    points[1] |= {"time_s": None, "skipped": "out of memory"}
    model |= long_audio.exponents(points, 60)
    assert long_audio.failures([model]) == ["base: no figure for 600 s"]


def test_widths_are_published_or_of_equal_size(bench):
    encoders = bench("encoders")
    assert encoders.choose_d_model("PoM", "base") == 488
    assert encoders.choose_d_model("RelPosMHAXL", "base") == 576
    wanted = encoders.count_parameters("PoM", "base", 488)
    for spec in ("PoM(degree=3)", "RelPosMHAXL*4 + PoM*8"):
        d_model = encoders.choose_d_model(spec, "base")
        assert d_model != 488
        assert encoders.count_parameters(spec, "base", d_model) == pytest.approx(wanted, rel=0.02)


class PaddedMean(nn.Module):
    """The mean over the padded length."""

    def __init__(self, d_model):
        super().__init__()

    def forward(self, query, key=None, value=None, **_):
        return query.mean(1, keepdim=True).expand_as(query), None


def test_wrong_mixers_are_found(bench, monkeypatch):
    encoders = bench("encoders")
    pom = encoders.build("PoM", "small", 16).eval()
    assert encoders.find_error(pom, "PoM") is None
    speechbrain_pom.register_attention("PaddedMean", PaddedMean)
    mean = encoders.build("PaddedMean", "small", 16).eval()
    leak = encoders.find_error(mean, "PaddedMean")
    assert re.match("an utterance alone and in a batch differ by ", leak)
    monkeypatch.setattr(encoders, "pom_error", lambda *_: 0.5)
    assert encoders.find_error(pom, "PoM") == "PoM and its definition differ by 5.0e-01"
    pom.encoder.norm.norm.weight.data.fill_(torch.inf)
    assert encoders.find_error(pom, "PoM") == "the output is not finite in fp32"


class FakeWorker:
    """Answers as told, one answer for each request."""

    def __init__(self, answers):
        self.answers = list(answers)

    def __call__(self, script, task):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def close(self):
        pass

    def ask(self):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_nothing_is_timed_when_a_check_fails(bench, monkeypatch):
    scaling = bench("mixer_scaling")
    monkeypatch.setattr(scaling, "Worker", FakeWorker([{"problem": "wrong"}]))
    monkeypatch.setattr(sys, "argv", ["mixer_scaling.py", "--size", "small", "--mixers", "PoM"])
    monkeypatch.setattr(scaling, "measure", None)
    with pytest.raises(SystemExit, match="error: PoM: wrong; nothing was timed") as ended:
        scaling.main()
    assert ended.value.code not in (0, None)


def test_points_without_memory_say_so(bench, monkeypatch):
    """The first length fits; the second does not, and the third is not tried."""
    scaling, measuring = bench("mixer_scaling"), bench("measuring")
    answers = [{"memory_mib": 5.0}, {"time_s": 1.0}]
    answers += [measuring.OutOfMemory("out of memory: ended by the system")]
    monkeypatch.setattr(scaling, "Worker", FakeWorker(answers))
    args = scaling.parse_arguments(["--lengths", "10..30", "--mode", "train", "--repeats", "1"])
    points = scaling.measure([{"mixer": "PoM", "d_model": 488}], {}, args)
    assert [point["time_s"] for point in points] == [1.0, None, None]
    assert points[1]["skipped"] == "out of memory: ended by the system"
    assert points[2]["skipped"] == "out of memory at 20 s and above"


class LocalWorker:
    """A worker without a process of its own."""

    def __init__(self, cost, task):
        self.ask = cost.prepare(task)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


TINY_STEP = ["--fraction", "0.002", "--layers", "1", "--batch_s", "4", "--length_s", "2", *TINY]


def test_a_step_of_pretraining_with_its_ratios(bench, monkeypatch, tmp_path):
    """Both objectives, in this process; RelPosMHAXL is left out."""
    cost, report = bench("pretraining_cost"), bench("report")
    monkeypatch.setattr(cost, "Worker", lambda _, task: LocalWorker(cost, task))
    out = tmp_path / "pretraining_cost_cpu.json"
    words = [*TINY_STEP, "--mixers", "SummaryMixing,regularMHA", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["benchmarks/pretraining_cost.py", *words])
    cost.main()
    record = json.loads(out.read_text())
    assert_says_where_it_ran(record)
    names = [(point["objective"], point["mixer"]) for point in record["points"]]
    mixers = ("SummaryMixing", "regularMHA")
    assert names == [(task, mixer) for task in ("wav2vec2", "bestrq") for mixer in mixers]
    for first, base in (record["points"][:2], record["points"][2:]):
        assert first["audio_s_per_s"] == pytest.approx(4 / first["time_s"])
        ratio = record["ratios"][first["objective"]]["SummaryMixing"]["time"]
        assert ratio == pytest.approx(first["time_s"] / base["time_s"] - 1)
    assert "| wav2vec2 | SummaryMixing |" in report.write_section(tmp_path)


def test_a_model_that_is_wrong_is_not_timed(bench, monkeypatch):
    """Each check finds its fault: padding that leaks, an unused parameter, a loss that is NaN."""
    cost = bench("pretraining_cost")
    args = cost.parse_arguments([*TINY_STEP, "--mixers", "SummaryMixing"])
    task = {"objective": "wav2vec2", **cost.sizes_of("SummaryMixing", args.fraction), "layers": 1}
    task |= {"device": "cpu", "dtype": "fp32", "fraction": args.fraction}
    leaking, unused, broken = (cost.build(task)[0] for _ in range(3))
    assert cost.find_error(leaking, task) is None
    mixing = leaking.encoder.transformer.encoder.layers[0].mha_layer
    hook = mixing.register_forward_hook(lambda _, call, out: (out[0] + call[0].mean(1, True), None))
    assert "an utterance alone and in a batch differ by" in cost.find_error(leaking.train(), task)
    hook.remove()
    unused.extra = nn.Linear(1, 1)
    assert cost.find_error(unused, task) == "extra.weight has no gradient"
    nn.init.constant_(broken.linear.weight, float("nan"))
    assert cost.find_error(broken, task) == "the loss is nan"
    monkeypatch.setattr(cost, "Worker", lambda _, task: LocalWorker(cost, task))
    monkeypatch.setattr(cost, "find_error", lambda objective, task: "it is wrong")
    with pytest.raises(SystemExit, match="wav2vec2, SummaryMixing: it is wrong; nothing was timed"):
        cost.measure_objective("wav2vec2", args)


def test_lstm(bench, monkeypatch, tmp_path):
    lstm, report = bench("lstm"), bench("report")
    words = ["lstm.py", *TINY, "--max_frames", "9", "--out", str(tmp_path / "lstm_cpu.json")]
    monkeypatch.setattr("sys.argv", words)
    threads = torch.get_num_threads()
    lstm.main()
    torch.set_num_threads(threads)
    record = json.loads((tmp_path / "lstm_cpu.json").read_text())
    assert_says_where_it_ran(record)
    for point in record["points"]:
        times = point["time_ms"]
        assert point["frames"] == 9
        assert point["speed_up"] == pytest.approx(times["packed"] / times["ours"])
    section = report.write_section(tmp_path)
    assert f"| 2 | 768 | 4 | 9 | {record['points'][-1]['time_ms']['ours']:.0f} | " in section

    packed = lstm.packed
    monkeypatch.setattr(lstm, "packed", lambda *call: packed(*call) + 0.1)
    with pytest.raises(SystemExit, match=r"gradients differ by .*: nothing was timed"):
        lstm.main()


def test_peak_memory_of_a_call():
    """In a fresh process, as it is used: others have freed memory that a call can take again."""
    code = (
        "import torch, measuring\n"
        "for mib in (64, 128):\n"  # the second call does not see the peak of the first
        "    print(measuring.peak_memory_mib(lambda: torch.ones(mib * 2**18), 'cpu'))\n"
    )
    command = [sys.executable, "-c", code]
    folders = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "benchmarks", ROOT)))}
    result = subprocess.run(command, env=folders, capture_output=True, text=True, check=True)
    assert [float(line) for line in result.stdout.split()] == pytest.approx([64, 128], abs=4)


def test_a_worker_ends_before_the_memory_does(bench, monkeypatch):
    measuring = bench("measuring")
    monkeypatch.setattr(measuring, "RESERVE", 2.0)  # more than there is
    task = {"threads": 1}
    with (
        measuring.Worker("encoders.py", task) as worker,
        pytest.raises(measuring.OutOfMemory, match=r"out of memory: ended with \d+ MiB left"),
    ):
        worker.ask()


def test_a_worker_that_fails_says_why(bench):
    measuring = bench("measuring")
    with (
        measuring.Worker("encoders.py", {"threads": 1}) as worker,
        pytest.raises(measuring.WorkerError, match="ended with code 1: KeyError: 'spec'"),
    ):
        worker.ask()


def test_the_section_shows_what_was_measured(bench, tmp_path):
    """Made-up records, of the keys that the scripts above wrote."""
    report = bench("report")
    machine = {"cpu": "a processor", "gpu": None, "threads": 2, "memory_mib": 2048}
    ran = {"machine": machine, "versions": {"torch": "2", "speechbrain": "1"}, "dirty": False}
    ran |= {"date": "2026-01-02", "commit": "abc", "command": "python benchmarks/x.py"}
    encoder = {"mixer": "PoM", "d_model": 488, "parameters": 91_500_000}
    point = {"mixer": "PoM", "mode": "forward", "length_s": 80, "time_s": 0.1234}
    point |= {"memory_mib": 10000.0}
    record = {**ran, "size": "base", "batch": 6, "dtype": "fp16", "mixers": [encoder]}
    name = "mixer_scaling_cuda_infer-forward-train"
    (tmp_path / f"{name}.json").write_text(json.dumps({**record, "points": [point]}))
    long_point = {"length_s": 10800, "time_s": None, "memory_mib": None, "skipped": "out of memory"}
    model = {"spec": "PoM", "parameters": 2_700_000, "points": [long_point]}
    model |= {"time_exponent": None, "memory_exponent": 1.01}
    long_audio = {**ran, "fit_from_s": 60, "keep_memory": True, "models": [model]}
    (tmp_path / "long_audio_cpu.json").write_text(json.dumps(long_audio))
    section = report.write_section(tmp_path)
    assert "| PoM | 488 | 91.5 |  |  | 0.12 | 10000 |  |  |" in section
    assert "| here | time (s) |  |  |  |  | 0.123 |" in section
    assert "| here | memory (GB) |  |  |  |  | 10.5 |" in section
    assert "| 10800 | out of memory |  |" in section
    assert "| exponent, from 60 s on |  | 1.010 |" in section
    assert "a processor, threads: 2, 2 GiB; torch 2, speechbrain 1; 2026-01-02" in section


def test_report_finds_edits_and_missing_markers(bench, tmp_path, capsys):
    report, readme, document = bench("report"), tmp_path / "README.md", tmp_path / "benchmarks.md"
    where = ["--document", str(document), "--readme", str(readme), "--results", str(tmp_path)]
    document.write_text(f"before\n{report.BEGIN}\n{report.END}\nafter\n")
    readme.write_text(f"before\n{report.HEADLINE_BEGIN}\n{report.HEADLINE_END}\nafter\n")
    report.main(where)
    report.main([*where, "--check"])
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| PoM | 8.31 ±0.31 | 19.06 ±0.53 |" in readme.read_text()
    assert "| published | time (s) | 0.475 | 0.20 | 0.165 | 0.147 | 0.127 |" in text
    readme.write_text(readme.read_text().replace("8.31", "7.31"))
    with pytest.raises(SystemExit, match=r"README\.md differs from the results: run python"):
        report.main([*where, "--check"])
    document.write_text(text.replace("0.127", "0.027"))
    with pytest.raises(SystemExit, match=r"benchmarks\.md differs from the results: run python"):
        report.main([*where, "--check"])
    document.write_text("no section\n")
    with pytest.raises(SystemExit):
        report.main(where)
    assert "to write between" in capsys.readouterr().err
    document.write_text(text)
    (tmp_path / "mixer_op_cpu.json").write_text("{")
    with pytest.raises(SystemExit):
        report.main(where)
    assert "mixer_op_cpu.json is not JSON: measure it again" in capsys.readouterr().err


def test_streaming(run, tmp_path, programs, finetuned_run):
    options = ["--size", "small", "--mixers", "PoM,RoPEMHA", "--chunks", "8", "--streams", "1,2"]
    noise = 0.1 * torch.randn(40_000)
    soundfile.write(tmp_path / "noise.wav", noise.numpy(), 16000)
    options += ["--recogniser", finetuned_run, "--audio", tmp_path / "noise.wav"]
    done, record = run("streaming.py", *options, *TINY)
    assert done.returncode == 0, done.stderr
    assert_says_where_it_ran(record)
    points = {(p["mixer"], p["left_s"], p["after"]): p for p in record["points"]}
    assert set(points) == {
        *(("PoM", left_s, "start") for left_s in (None, 10, 40)),
        ("PoM", None, "hour"),
        *(("RoPEMHA", left_s, "start") for left_s in (10, 40)),
    }
    sizes = {name: point["state_bytes"] for name, point in points.items()}
    assert sizes["PoM", None, "start"] == sizes["PoM", None, "hour"]
    assert sizes["PoM", None, "start"] < sizes["PoM", 10, "start"] < sizes["PoM", 40, "start"]
    assert sizes["RoPEMHA", 10, "start"] > 4 * 250 * 144 * 4  # all frames of 10 s in 4 layers
    assert [point["streams"] for point in record["pool"]] == [1, 2]
    assert len(record["bounds"]) == 5
    (latency,) = record["word_latency"]
    assert latency["words"] > 0
    assert -0.01 <= latency["p50_s"] <= latency["p95_s"] < 2.5
    document = tmp_path / "streaming.md"
    begin = "<!-- STREAMING: written by benchmarks/streaming.py --report -->"
    document.write_text(f"# Streams\n{begin}\n<!-- /STREAMING -->\n")
    written = ["--report", "--out", tmp_path / "out.json", "--document", document]
    assert programs.run([ROOT / "benchmarks/streaming.py", *written]).returncode == 0
    assert "| 8 | PoM | all, after an hour |" in document.read_text()
