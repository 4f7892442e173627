"""What the downstream tasks measure."""

from speechbrain_pom.ctc.metrics import CTC_METRICS
from speechbrain_pom.runs.metrics import Metric, TaskMetrics
from speechbrain_pom.training.costs import TRAINING_METRICS, learning_rate

_RATES = (
    learning_rate("lr_head", "head"),
    learning_rate("lr_weights", "layer weights"),
    learning_rate("lr_encoder", "encoder"),
)
_OF_CTC = tuple(metric for metric in CTC_METRICS.metrics if not metric.name.startswith("lr_"))

RECOGNITION_METRICS = TaskMetrics(
    "downstream recognition",
    (*_OF_CTC, *_RATES),
    best="wer",
    names=CTC_METRICS.names,
)
CLASSIFICATION_METRICS = TaskMetrics(
    "downstream classification",
    (
        Metric("loss", "nats", better="lower", panel="Loss"),
        Metric("error_rate", "%", better="lower", panel="Classification"),
        *_RATES,
        *TRAINING_METRICS,
        Metric("accuracy", "%", better="higher", parts=("test",)),
        Metric("commonest_class", "%", parts=("test",)),
        Metric("num_utterances", "count", label="utterances", parts=("test",)),
    ),
    best="error_rate",
)
VERIFICATION_METRICS = TaskMetrics(
    "downstream verification",
    (
        Metric("loss", "nats", better="lower", panel="Loss"),
        Metric(
            "error_rate", "%", label="training speakers", better="lower", panel="Identification"
        ),
        *_RATES,
        *TRAINING_METRICS,
        Metric("eer", "%", label="equal error rate", better="lower", parts=("test",)),
        Metric("num_trials", "count", label="trials", parts=("test",)),
        Metric("num_speakers", "count", label="speakers", parts=("test",)),
    ),
    best="error_rate",
)
