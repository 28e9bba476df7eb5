"""One file for each thing outside the process; each keeps a promise made in ports.py."""
