"""Hostile and broken input, made by programs: by structure, so that it reaches past the first check."""
