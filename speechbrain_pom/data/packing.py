"""Packs audio into shards with an index, on one machine or in parts on many.

The folder of the shards holds, besides them and `index.parquet`:

- `packing.json`: the options, and the number of shards;
- `rows/shard-000012.list.json`: what goes into a shard; all lists are made once, by whichever part
  comes first;
- `rows/shard-000012.json`: what a finished shard holds, and which utterances are bad;
- `problems.json`: all bad utterances.

A shard is complete or not there: a call that was killed goes on with those that are missing.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

from speechbrain_pom.data.audio.files import (
    SAMPLE_RATE,
    check_choice,
    inspect_audio,
    resampled_length,
    resampling_problems,
)
from speechbrain_pom.data.audio.formats import extension_of
from speechbrain_pom.data.index import INDEX_FILE, import_pyarrow, write_index
from speechbrain_pom.data.pack_list import COLUMNS, freeze_list, list_file, list_source
from speechbrain_pom.data.records import check_max_bad_share, count_utterances, json_text
from speechbrain_pom.data.shards import shard_name
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import publish_file, temporary_beside, write_atomically
from speechbrain_pom.utils.locks import LockTakenError, NoFileLocksError, locked
from speechbrain_pom.utils.parts import WHOLE, Part
from speechbrain_pom.utils.processes import map_in_processes, num_processes

OPTIONS_FILE = "packing.json"

_BLOCK = 512  # bytes of a tar's header
_TEXTS = ("ID", "spk_id", "wrd", "label", "sha256")

logger = logging.getLogger(__name__)


def pack(
    source: str | Path,
    out: str | Path,
    *,
    splits: Sequence[str] | None = None,
    shard_bytes: int = 10**9,
    index_only: bool = False,
    need_transcripts: bool = False,
    check_data: str = "headers",
    max_bad_share: float = 0.0,
    part: Part = WHOLE,
    num_workers: int | None = None,
    show_progress: bool = True,
) -> Path | None:
    """Pack the audio of a source; a repeated call goes on where it was stopped.

    Arguments
    ---------
    source : str or pathlib.Path
        As `speechbrain_pom.data.pack_list.list_source` takes it.
    out : str or pathlib.Path
        The folder to write to.
    splits : sequence of str, optional
        Of LibriSpeech's layout.
    shard_bytes : int
        Audio in a shard, about.
    index_only : bool
        Leave the audio where it is: only an index of the files is written.
    need_transcripts : bool
        Whether an utterance without a transcript is bad.
    check_data : str
        `"headers"` or `"decode"`, as `inspect_audio` takes it.
    max_bad_share : float
        The share of utterances that may be left out.
    part : Part
        Of the shards, all by default.
    num_workers : int, optional
        Processes; the CPU cores by default.
    show_progress : bool
        Whether there is a progress bar.

    Returns
    -------
    pathlib.Path or None
        The index, written by the part that finishes last; None before.

    Raises
    ------
    UserError
        If the source or the folder cannot be used, or too many utterances are bad.
    """
    import_pyarrow()
    check_choice(check_data)
    check_max_bad_share(max_bad_share)
    num_workers = num_processes(num_workers)
    options = {
        "source": os.path.abspath(source),
        "splits": list(splits or ()),
        "shard_bytes": shard_bytes,
        "index_only": index_only,
        "need_transcripts": need_transcripts,
        "check_data": check_data,
    }
    out = Path(out)
    (out / "rows").mkdir(parents=True, exist_ok=True)
    with _lock(out, "list", wait=True):
        num_shards = _freeze(out, options, source, splits)
    with _lock(out, part.name, wait=False):
        todo = [n for n in part.of(range(num_shards)) if not _is_finished(out, n, index_only)]
        write = partial(_write_shard, out, options)
        title = f"pack {part}" if show_progress else None
        for _ in map_in_processes(write, todo, num_workers, bar_title=title):
            pass
    missing = [n for n in range(num_shards) if not _is_finished(out, n, index_only)]
    if missing:
        logger.info("%s: %d of %d shards are left to other parts", out, len(missing), num_shards)
        return None
    with _lock(out, "index", wait=True):
        return _join(out, num_shards, index_only, max_bad_share)


@contextmanager
def _lock(out, name, wait):
    try:
        with locked(out / f".{name}.lock", wait):
            yield
    except LockTakenError:
        raise UserError(
            f"'{out}': another process packs {name}: wait for it, or take another part"
        ) from None
    except NoFileLocksError as error:
        logger.warning("'%s' cannot be locked (%s): start each part once", out, error)
        yield


def _freeze(out, options, source, splits):
    """Make the lists unless they are there; the number of shards."""
    record = out / OPTIONS_FILE
    if not record.is_file():
        num_shards = freeze_list(out / "rows", list_source(source, splits), options["shard_bytes"])
        write_atomically(record, json_text(options | {"num_shards": num_shards}))
    then = json.loads(record.read_text(encoding="utf-8"))
    for key, value in options.items():
        if then.get(key) != value:
            raise UserError(
                f"'{out}' was packed with {key} {then.get(key)!r}, this call has {value!r}: give "
                "another folder"
            )
    return then["num_shards"]


def _rows_file(out, shard):
    return out / "rows" / f"{shard_name(shard)[:-4]}.json"


def _is_finished(out, shard, index_only):
    return _rows_file(out, shard).is_file() and (index_only or (out / shard_name(shard)).is_file())


def _write_shard(out, options, shard):
    """Write a shard, then its rows: these say that it is complete."""
    items = json.loads(list_file(out / "rows", shard).read_text(encoding="utf-8"))
    rows, bad, target = [], [], out / shard_name(shard)
    temporary = temporary_beside(target, "part")
    with _tar(None if options["index_only"] else temporary) as tar:
        for item in items:
            row, problems = _look_at(item, options)
            if problems:
                bad.append([item["ID"], item["path"], row["duration"], problems])
                continue
            place = {"wav": item["path"]}
            if tar is not None:
                try:
                    place = {"shard": shard, **_add(tar, f"{shard:06d}-{len(rows):06d}", item, row)}
                except OSError as error:
                    bad.append([item["ID"], item["path"], row["duration"], {"read": str(error)}])
                    continue
            rows.append(row | place)
    if tar is not None:
        publish_file(temporary, target)
    write_atomically(_rows_file(out, shard), json.dumps({"rows": rows, "bad": bad}) + "\n")


@contextmanager
def _tar(path):
    if path is None:
        yield None
        return
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        yield tar


def _look_at(item, options):
    """The row of an utterance in the index, and what is wrong with it."""
    facts = inspect_audio(item["path"], options["check_data"])
    problems = dict(facts.problems)
    if facts.sample_rate:
        problems |= resampling_problems(facts)
    if options["need_transcripts"] and not item["wrd"]:
        problems["transcript"] = "has no transcript: add it or remove the utterance"
    row = {name: item[name] for name in COLUMNS if name != "path"}
    if problems or not facts.sample_rate:
        return row | {"duration": facts.duration_s}, problems
    num_samples = resampled_length(facts.num_samples, facts.sample_rate)
    return row | {"duration": num_samples / SAMPLE_RATE, "num_samples": num_samples}, {}


def _add(tar, key, item, row):
    """Add an utterance to a tar, audio and JSON; where its audio is, and its hash."""
    content = Path(item["path"]).read_bytes()
    offset = tar.offset + _BLOCK
    _add_member(tar, key + (extension_of(item["path"]) or ".audio"), content)
    facts = json.dumps({"sample_rate": SAMPLE_RATE, **row})
    _add_member(tar, f"{key}.json", facts.encode())
    return {"offset": offset, "bytes": len(content), "sha256": sha256(content).hexdigest()}


def _add_member(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _join(out, num_shards, index_only, max_bad_share):
    """The index of all shards."""
    index = out / INDEX_FILE
    if index.is_file():
        return index
    pa = import_pyarrow()
    tables, bad, durations_s = [], [], []
    for shard in range(num_shards):
        found = json.loads(_rows_file(out, shard).read_text(encoding="utf-8"))
        bad += found["bad"]
        if found["rows"]:
            tables.append(_as_table(pa, found["rows"]))
            durations_s += tables[-1]["duration"].to_pylist()
    totals = count_utterances(durations_s, [_Bad(entry[2]) for entry in bad])
    if bad:
        write_atomically(out / "problems.json", json_text(totals | {"bad": bad}))
    if totals["bad_share"] > max_bad_share or not tables:
        name, path, _, problems = bad[0]
        raise UserError(
            f"{len(bad)} of {len(bad) + totals['kept_utterances']} utterances are bad, more than "
            f"max_bad_share={max_bad_share:g} allows, such as {name} ({path}): "
            f"{'; '.join(problems.values())}; all are listed in '{out / 'problems.json'}': pack "
            "again into another folder when they are fixed, or raise --max_bad_share"
        )
    facts = {} if index_only else {"num_shards": num_shards}
    write_index(index, pa.concat_tables(tables), facts)
    logger.info("%s: %d utterances, %.3f h", out, totals["kept_utterances"], totals["kept_h"])
    return index


class _Bad:
    def __init__(self, duration_s):
        self.duration_s = duration_s


def _as_table(pa, rows):
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    kinds = {name: pa.large_string() for name in (*_TEXTS, "wav")}
    kinds |= {"duration": pa.float64(), "shard": pa.int32()}
    return pa.table(
        {name: pa.array(values, kinds.get(name, pa.int64())) for name, values in columns.items()}
    )
