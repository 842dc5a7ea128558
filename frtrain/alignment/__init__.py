"""From photographs to aligned crops."""
