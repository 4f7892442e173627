"""Errors, files, seeds: what every other part stands on."""
