"""Audio files: what is wrong with one, and its samples as the models read them."""
