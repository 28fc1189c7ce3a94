"""Calibration: one Hessian for every layer's input."""
