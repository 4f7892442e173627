"""What the operators share: masks, sums over time, precision."""
