"""Accounts: signing in and out, sessions, users, tokens."""
