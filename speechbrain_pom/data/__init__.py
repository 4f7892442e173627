"""Data: the synthetic mini corpus, checks of corpora, and helpers for manifests."""
