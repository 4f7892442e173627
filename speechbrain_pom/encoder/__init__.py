"""The speech encoder: features, front end, Transformer, lengths; building and loading it."""
