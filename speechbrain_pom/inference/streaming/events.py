"""What a recognised stream tells: texts that still grow, and segments that are over."""

from dataclasses import dataclass

from speechbrain_pom.inference.segments import Segment


@dataclass(frozen=True)
class Partial:
    """What is said so far in the open segment.

    Arguments
    ---------
    segment : int
        Number of the segment, from 0 on.
    stable : str
        Words that do not change any more: the texts of all finals and then `stable`, joined by
        spaces, only ever grow.
    tail : str
        What follows them and may still change: letters of an unfinished word and, in beam search,
        words about which the hypotheses disagree.
    start_s, end_s : float
        From the first label of the segment to the end of the last one, in seconds of the stream.

    Example
    -------
    >>> Partial(0, "GOOD", "MOR", 0.52, 0.96).text
    'GOOD MOR'
    """

    segment: int
    stable: str
    tail: str
    start_s: float
    end_s: float

    @property
    def text(self) -> str:
        """Both together."""
        return f"{self.stable} {self.tail}".strip()


@dataclass(frozen=True)
class Final(Segment):
    """A segment that is over, with the times and confidences of its words.

    Arguments
    ---------
    start_s, end_s, text, words, confidence
        See `Segment`.
    segment : int
        Number of the segment: that of its partials.

    Example
    -------
    >>> Final(0.5, 0.9, "HELLO", [], 0.97, segment=3).text
    'HELLO'
    """

    segment: int = 0


Event = Partial | Final


def event_record(event: Event, audio_s: float) -> dict:
    """An event as a dictionary for JSON.

    Arguments
    ---------
    event : Partial or Final
    audio_s : float
        Seconds of the stream that were accepted when it came.

    Returns
    -------
    dict
        type, segment, start_s, end_s, audio_s, stable, tail; a final has all of its text in
        `stable`, and `words` and `confidence` besides.

    Example
    -------
    >>> event_record(Partial(0, "GOOD", "MOR", 0.5204, 0.96), 1.28)["start_s"]
    0.52
    """
    is_final = isinstance(event, Final)
    record = {
        "type": "final" if is_final else "partial",
        "segment": event.segment,
        "start_s": round(event.start_s, 3),
        "end_s": round(event.end_s, 3),
        "audio_s": round(audio_s, 3),
        "stable": event.text if is_final else event.stable,
        "tail": "" if is_final else event.tail,
    }
    if is_final:
        record["confidence"] = round(event.confidence, 3)
        record["words"] = [
            {
                "text": word.text,
                "start_s": round(word.start_s, 3),
                "end_s": round(word.end_s, 3),
                "confidence": round(word.confidence, 3),
            }
            for word in event.words
        ]
    return record
