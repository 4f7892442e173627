"""What the mixers of an encoder put out while it is trained, and their gradients.

Where a run does not learn, this shows which layers carry a signal: a mixer whose output is the
same vector in every frame of every utterance tells the layers above it nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from speechbrain.utils.distributed import if_main_process

from speechbrain_pom.attention.layers import ENCODERS, mixer_of
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

LAYERS_FILE = "layers.jsonl"


class LayerStatistics:
    """Writes a line of `layers.jsonl` at every `interval` optimizer steps; changes nothing else.

    Arguments
    ---------
    modules : torch.nn.Module
        Those of the run, with one or more of SpeechBrain's encoders.
    folder : str or pathlib.Path
        Folder of the run.
    interval : int
        Optimizer steps from line to line; 0: none are written.

    Raises
    ------
    UserError
        If the interval is no whole number of at least 0.
    """

    def __init__(self, modules: torch.nn.Module, folder: str | Path, interval: int) -> None:
        if not isinstance(interval, int) or interval < 0:
            raise UserError(
                f"layer_statistics_interval is {interval!r}: give a number of optimizer steps, "
                "or 0 for no statistics"
            )
        self.path = Path(folder) / LAYERS_FILE
        self.interval = interval
        encoders = [part for part in modules.modules() if isinstance(part, ENCODERS)]
        self.mixers = [mixer_of(layer) for encoder in encoders for layer in encoder.layers]

    @classmethod
    def of_run(cls, modules: torch.nn.Module, options: dict) -> LayerStatistics:
        """Those that the options of a run ask for: `layer_statistics_interval`, `output_folder`."""
        interval = options.get("layer_statistics_interval", 0)
        return cls(modules, options.get("output_folder") or ".", interval)

    def resume(self, step: int) -> None:
        """Drop what was written after an optimizer step, from which the run goes on."""
        if self.path.is_file() and if_main_process():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] < step]
            write_atomically(self.path, "".join(f"{line}\n" for line in kept))

    @contextmanager
    def of_batch(self, step: int, is_first: bool) -> Iterator[None]:
        """Context manager for the forward and backward pass of a batch, whose statistics it takes.

        `step` counts the optimizer steps that were taken before; `is_first` says whether it is the
        first batch of its step.
        """
        due = self.interval and step % self.interval == 0 and is_first and if_main_process()
        if not due:
            yield
            return
        found = {}
        hooks = [
            mixer.register_forward_hook(self._hook(number, found), with_kwargs=True)
            for number, mixer in enumerate(self.mixers)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        layers = [
            {**found[number], "gradient_norm": _gradient_norm(mixer)}
            for number, mixer in enumerate(self.mixers)
            if number in found
        ]
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "layers": layers}) + "\n")

    def _hook(self, number, found):
        def look(_module, args, kwargs, output):
            query = args[0] if args else kwargs["query"]
            padding = kwargs.get("key_padding_mask")
            mixed = describe_frames(output[0] if isinstance(output, tuple) else output, padding)
            found[number] = {
                "input_rms": describe_frames(query, padding)["rms"],
                "output_rms": mixed.pop("rms"),
                **mixed,
            }

        return look


@torch.no_grad()
def describe_frames(frames: torch.Tensor, padding: torch.Tensor | None = None) -> dict[str, float]:
    """How large frames (B, T, d) are, and how much of them is the same everywhere.

    With `padding` (B, T) True where a frame is padding. Gives `rms`; `constant_over_time`, the
    share of the power that is the mean over an utterance's frames; and `constant_over_utterances`,
    the share that is the mean over all of them.

    Example
    -------
    >>> describe_frames(torch.ones(2, 5, 3))
    {'rms': 1.0, 'constant_over_time': 1.0, 'constant_over_utterances': 1.0}
    """
    frames = frames.detach().double()
    valid = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
    if padding is not None and padding.dtype == torch.bool:
        valid = ~padding
    weights = valid.double().unsqueeze(-1)
    frames = torch.where(valid.unsqueeze(-1), frames, 0.0)
    num_frames = weights.sum()
    power = frames.square().sum() / num_frames
    lengths = weights.sum(1)  # (B, 1)
    means = frames.sum(1) / lengths.clamp(min=1)  # (B, d)
    of_time = (means.square() * lengths).sum() / num_frames
    of_all = (frames.sum((0, 1)) / num_frames).square().sum()
    width = frames.shape[-1]
    return {
        "rms": round(float((power / width).sqrt()), 6),
        "constant_over_time": round(float(of_time / power), 6) if power else 0.0,
        "constant_over_utterances": round(float(of_all / power), 6) if power else 0.0,
    }


def _gradient_norm(module):
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    squares = [gradient.detach().double().square().sum() for gradient in gradients]
    return round(float(torch.stack(squares).sum().sqrt()), 6) if squares else 0.0
