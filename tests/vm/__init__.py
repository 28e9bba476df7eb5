"""The real unit under systemd with cgroup v2, in an emulated machine: `make vm`."""

AS_PROMISED, FAULTS = "all as promised", "faults: "
"""The beginning of the table's last line."""
