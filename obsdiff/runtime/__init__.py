"""The machine: processes, memory, files, time."""
