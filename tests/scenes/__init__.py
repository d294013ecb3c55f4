"""Situations that several tests start from, made through the store's own interface."""
