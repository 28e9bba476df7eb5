"""Code that takes all it can of memory, processors, processes and disk, and what comes of it."""
