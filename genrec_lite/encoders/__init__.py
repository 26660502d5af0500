"""Encoders: a jagged batch of item sequences in, one query embedding a position out."""
