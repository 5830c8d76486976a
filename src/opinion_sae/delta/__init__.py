"""Offsets to latents: what they do to x, arithmetic on them, fitting (frozen or joint), held out, chosen, cut to few latents.

Imports from the ground, `survey`, `score`, `model` and `sae`.
"""
