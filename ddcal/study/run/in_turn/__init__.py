"""Studies in turn on the same workers: what is known of one before it runs, its opening, and the running itself."""
