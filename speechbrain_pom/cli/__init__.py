"""The subcommands of `python -m speechbrain_pom`; their table is in `__main__.py`."""
