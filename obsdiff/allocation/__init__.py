"""Allocation: how much each layer gives up."""
