"""Downstream tasks on a frozen or fine-tuned encoder: a learnt sum of its layers, and a head."""

from speechbrain_pom.downstream import heads
from speechbrain_pom.downstream.cache import StateCache
from speechbrain_pom.downstream.model import DownstreamModel
from speechbrain_pom.downstream.upstream import LogMel, load_upstream

__all__ = [
    "DownstreamModel",
    "LogMel",
    "StateCache",
    "heads",
    "load_upstream",
]
