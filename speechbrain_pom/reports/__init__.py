"""What runs have reached: read from their folders."""
