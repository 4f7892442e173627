"""Encoders of several objectives and mixers on downstream tasks: runs, records, one table.

* `protocols.yaml`, :mod:`experiments.downstream.protocols`: what is run, and its commands;
* :mod:`experiments.downstream.records`: the results of the finished runs, in one JSON file;
* :mod:`experiments.downstream.report`: the generated section of `docs/downstream.md`.

Pretraining is that of a protocol of :mod:`experiments.replica`, whose machinery runs all of it.
"""
