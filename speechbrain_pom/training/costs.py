"""What every training logs besides its objective: gradients, throughput and memory."""

import resource

import torch

from speechbrain_pom.runs.metrics import Metric

GRADIENT_METRICS = (
    Metric("grad_norm", "L2 norm", panel="Gradient norm", parts=("train",), axis="log"),
)
TRAINING_METRICS = (
    *GRADIENT_METRICS,
    Metric(
        "audio_s_per_s",
        "s of audio per second",
        label="speed",
        panel="Throughput, all processes",
        parts=("train",),
        axis="zero",
        digits=0,
        summary="last",
    ),
    Metric(
        "peak_memory_mib", "MiB", label="peak memory", parts=("train",), digits=0, summary="last"
    ),
)


def learning_rate(name: str = "lr", label: str | None = None) -> Metric:
    """The declaration of a learning rate, logged beside the statistics of an epoch."""
    return Metric(name, label=label, panel="Learning rate", parts=("epoch",), axis="log")


def peak_memory_mib(device: str | torch.device) -> float:
    """Peak memory in MiB: allocated on a CUDA device, resident of the process otherwise."""
    if str(device).startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
