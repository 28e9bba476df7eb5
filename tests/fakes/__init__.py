"""The ports in memory: each fake keeps the same promises as its adapter, and tests/contracts/ holds both to them."""
