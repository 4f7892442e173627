"""The paper's two-panel figure: time and memory against the length of the audio."""

import io

import matplotlib
from encoders import FLOOR, MODES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from speechbrain_pom.utils.files import write_atomically

PANELS = (("time_s", "time (s)"), ("memory_mib", "peak memory (MiB)"))


def draw_scaling(record, json_path):
    """Draw a record of mixer_scaling.py beside its JSON, a row of panels for each mode.

    Returns
    -------
    list of Path
        The PNG and the SVG.
    """
    modes = list(dict.fromkeys(point["mode"] for point in record["points"]))
    figure = Figure(figsize=(11, 0.6 + 3.2 * len(modes)), layout="constrained")
    FigureCanvasAgg(figure)
    machine = record["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, threads: {machine['threads']}"
    figure.suptitle(
        f"{record['size']} encoders, batch {record['batch']}, {record['dtype']}, {where}",
        fontsize="medium",
    )
    axes = figure.subplots(len(modes), 2, squeeze=False)
    for mode, row in zip(modes, axes, strict=True):
        for panel, (key, label) in zip(row, PANELS, strict=True):
            for mixer in record["mixers"]:
                _draw_line(panel, record["points"], mixer, mode, key)
            panel.set(title=MODES[mode], xlabel="length of the audio (s)", ylabel=label)
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
    lines = axes[0][0].get_lines()
    figure.legend(handles=lines, title="mixer (parameters)", loc="outside right upper")
    return [_save(figure, json_path.with_suffix(f".{kind}"), kind) for kind in ("png", "svg")]


def _draw_line(panel, points, mixer, mode, key):
    line = [
        (point["length_s"], point[key])
        for point in points
        if (point["mixer"], point["mode"]) == (mixer["mixer"], mode) and "skipped" not in point
    ]
    is_floor = mixer["mixer"] == FLOOR
    panel.plot(
        [length for length, _ in line],
        [value for _, value in line],
        label=f"{mixer['mixer']} ({mixer['parameters'] / 1e6:.1f} M)",
        **({"linestyle": "--", "color": "grey"} if is_floor else {"marker": "o", "markersize": 3}),
    )


def _save(figure, path, kind):
    """The same bytes for the same record: no date, no random identifiers."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "speechbrain-pom", "svg.fonttype": "none"}):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=120, metadata=metadata)
    write_atomically(path, buffer.getvalue())
    return path
