"""The learning part: sees the context, chooses among what the guard permits, learns from rewards.

Pure but for numpy: no clock, no randomness of its own, no I/O.
"""
