"""Recordings on disk: which clips there are, reading them, checking, fetching and simulating them."""
