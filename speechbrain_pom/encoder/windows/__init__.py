"""Hours of audio in windows."""
