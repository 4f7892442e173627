"""Python imports this at its start where this folder is in PYTHONPATH: see behaviours.py."""

import os

if os.environ.get("BEHAVIOUR_OF_TODAY"):
    import behaviours

    behaviours.put_back(os.environ["BEHAVIOUR_OF_TODAY"])
