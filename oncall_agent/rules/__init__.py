"""Decisions as plain functions: values in, values out; no clock, no I/O, no randomness of their own."""
