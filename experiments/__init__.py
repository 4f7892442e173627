"""The experiments of the publications as data, their commands, and the records of their runs.

It is part of the checkout, not of the installed package.

* `table.yaml`: one row per experiment, with the published error rates and their source;
* :mod:`experiments.table`: reads it;
* :mod:`experiments.commands`: a row as commands of the recipes;
* :mod:`experiments.records`: the results of finished runs, one JSON file each;
* :mod:`experiments.readme`: the tables in the recipes' README;
* :mod:`experiments.replica`: the same experiment at a small scale, with all mixers.

Any two runs are compared by :mod:`speechbrain_pom.reports.comparison`.
"""
