"""Docstrings with SpeechBrain's headings, for a parser that knows those of NumPy alone."""

import re

from griffe import Extension

HEADINGS = {"Arguments": "Parameters", "Example": "Examples"}
NAMES = re.compile(r"(?<!`)`(speechbrain_pom(?:\.\w+)+)`(?!`)")
# A link where the reference describes the name, and else the name alone.
LINKED = r'<autoref identifier="\1" optional><code>\1</code></autoref>'


def to_numpy(text):
    """A docstring with NumPy's headings, its bare examples under one, and names as links."""
    for ours, theirs in HEADINGS.items():
        text = re.sub(rf"^{ours}\n-+$", f"{theirs}\n{'-' * len(theirs)}", text, flags=re.M)
    if ">>> " in text and "Examples\n--------" not in text:
        text = re.sub(r"^(?=>>> )", "Examples\n--------\n", text, count=1, flags=re.M)
    return NAMES.sub(LINKED, text)


class SpeechBrainDocstrings(Extension):
    """Passes each docstring through `to_numpy` before it is parsed."""

    def on_object(self, *, obj, **kwargs):
        """Rewrite the docstring of an object; the fields of a named tuple are its attributes."""
        if obj.docstring:
            text = to_numpy(obj.docstring.value)
            if obj.is_class and "NamedTuple" in map(str, obj.bases):
                text = text.replace("Parameters\n----------", "Attributes\n----------")
            obj.docstring.value = text
