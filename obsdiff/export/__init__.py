"""Pruned folders in other forms, for programs that do not know obsdiff."""
