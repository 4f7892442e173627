"""Python imports this at its start where this folder is in PYTHONPATH: see behaviours.py."""

import os

if os.environ.get("BEHAVIOUR_PUT_BACK"):
    import behaviours

    behaviours.put_back(os.environ["BEHAVIOUR_PUT_BACK"])
