"""Generative ranking: how likely is each action on each candidate, given all that came before?"""
