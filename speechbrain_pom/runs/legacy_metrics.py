"""What runs of version 0.1 logged, which did not declare it. To be removed in version 0.3."""

from collections.abc import Collection

from speechbrain_pom.runs.metrics import Metric, TaskMetrics

_VALID, _TEST = {"parts": ("valid",)}, {"parts": ("test",)}
_CODES = {"panel": "Codes", "axis": "log", "digits": 0, "summary": "last", **_VALID}
_RATE = {"unit": "%", "better": "lower"}
_METRICS = (
    Metric("loss", "nats", better="lower", panel="Loss"),
    Metric(
        "accuracy",
        "share",
        "masked accuracy",
        better="higher",
        panel="Masked prediction",
        compared_with="top_code_share",
    ),
    Metric("top_code_share", "share", "commonest code", panel="Masked prediction", **_VALID),
    Metric("code_perplexity", **_CODES),
    Metric("codes_in_use", **_CODES),
    Metric("wer", label="greedy WER", panel="Error rates, greedy", **_RATE, **_VALID),
    Metric("cer", label="greedy CER", panel="Error rates, greedy", **_RATE, **_VALID),
    Metric("error_rate", panel="Classification", **_RATE),
    Metric("lr", panel="Learning rate", parts=("epoch",), axis="log"),
    Metric("lr_encoder", label="encoder", panel="Learning rate", parts=("epoch",), axis="log"),
    Metric("lr_head", label="head", panel="Learning rate", parts=("epoch",), axis="log"),
    Metric("grad_norm", "L2 norm", panel="Gradient norm", parts=("train",), axis="log"),
    Metric(
        "audio_s_per_s",
        "s of audio per second",
        "speed",
        parts=("train",),
        panel="Throughput",
        summary="last",
        digits=0,
    ),
    Metric("peak_memory_mib", "MiB", "peak memory", parts=("train",), summary="last", digits=0),
    Metric("wer", label="WER", **_RATE, **_TEST),
    Metric("cer", label="CER", **_RATE, **_TEST),
    Metric("accuracy", "%", **_TEST),  # of a probe
    Metric("commonest_class", "%", **_TEST),
    Metric("eer", "%", "equal error rate", **_TEST),
    Metric("num_utterances", "count", "utterances", **_TEST),
    Metric("num_words", "count", "words", **_TEST),
    Metric("empty_outputs", "count", **_TEST),
)
_DECODERS = {"no_lm": "without LM", "lm": "with LM"}
# By what each task alone logged in validation: its name, and the metric of the best checkpoint.
_TASKS = {"accuracy": "BEST-RQ", "wer": "CTC", "error_rate": "probe"}


def metrics_of_0_1(logged: Collection[str]) -> TaskMetrics:
    """The metrics of a run of version 0.1, or of another program, that logged these names."""
    known = next((name for name in _TASKS if name in logged), None)
    tuned = known in ("wer", "error_rate")
    return TaskMetrics(
        task=_TASKS.get(known, ""),
        metrics=_METRICS,
        best=known if tuned else "loss",
        use="best" if tuned else "newest",
        names=_DECODERS,
    )
