"""Replay: one recorded dense trajectory, run again package by package."""
