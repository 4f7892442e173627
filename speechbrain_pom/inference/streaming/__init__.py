"""Recognition of speech as it arrives: partial texts, and segments when they are over."""

from speechbrain_pom.inference.streaming.events import Final, Partial

__all__ = ["Final", "Partial"]
