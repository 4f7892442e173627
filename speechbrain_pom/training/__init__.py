"""What both recipes need to train, and to resume, without losing or repeating anything."""
