"""The published experiment at a small scale: all mixers, several seeds, one report.

* `protocols.yaml`, :mod:`experiments.replica.protocols`: what is run, and its commands;
* :mod:`experiments.replica.runs`: runs it;
* :mod:`experiments.replica.records`: the results of the finished runs, in one JSON file;
* :mod:`experiments.replica.report`: the generated section of `docs/replica.md`, computed from that
  file by `statistics` and `validation`, and drawn by `figure`.
"""
