"""Pure functions and values: no IO, no clock, no randomness, no async."""
