"""Speech as it arrives: frames chunk by chunk, in a state of constant size."""
