"""A small corpus of synthetic speech in LibriSpeech's layout."""
