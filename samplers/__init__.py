"""Published sampling methods, one file each."""
