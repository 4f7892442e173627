"""The experiments of the publications as data, their commands, and the records of their runs.

* `table.yaml`: one row per experiment, with the published figures and their source;
* :mod:`speechbrain_pom.experiments.table`: reads it;
* :mod:`speechbrain_pom.experiments.commands`: a row as the commands of the recipes;
* :mod:`speechbrain_pom.experiments.records`: what a finished run of a row has come to;
* :mod:`speechbrain_pom.experiments.readme`: the tables of the recipes' README;
* :mod:`speechbrain_pom.reports.comparison`: runs side by side, with significance;
* :mod:`speechbrain_pom.reports.learning_curves`: their learning curves in one picture.
"""
