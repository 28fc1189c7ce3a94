"""Denoisers: their structure, and the surgery that changes their shapes."""
