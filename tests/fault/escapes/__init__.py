"""Ways out of a sandbox, tried for real: each by name, how it is refused, and that it works where nothing refuses it.

`python -m tests.fault.escapes` prints the table. Modules named after what they reach for hold the attempts; they and
`attempt` need nothing but Python's own library, since they run inside."""
