"""What fine-tuning with CTC measures."""

from speechbrain_pom.runs.metrics import Metric, TaskMetrics
from speechbrain_pom.training.costs import TRAINING_METRICS, learning_rate

_GREEDY = {"unit": "%", "better": "lower", "panel": "Error rates, greedy", "parts": ("valid",)}
_RATE = {"unit": "%", "better": "lower", "parts": ("test",)}
_COUNT = {"unit": "count", "parts": ("test",)}

CTC_METRICS = TaskMetrics(
    "CTC",
    (
        Metric("loss", "nats", better="lower", panel="Loss"),
        Metric("wer", label="greedy WER", **_GREEDY),
        Metric("cer", label="greedy CER", **_GREEDY),
        Metric("blank_share", "share", label="blank outputs", parts=("valid",)),
        learning_rate("lr_encoder", "encoder"),
        learning_rate("lr_head", "head"),
        *TRAINING_METRICS,
        Metric("wer", label="WER", **_RATE),
        Metric("cer", label="CER", **_RATE),
        Metric("num_utterances", label="utterances", **_COUNT),
        Metric("num_words", label="words", **_COUNT),
        Metric("empty_outputs", **_COUNT),
    ),
    best="wer",
    names={"no_lm": "without LM", "lm": "with LM"},
)
