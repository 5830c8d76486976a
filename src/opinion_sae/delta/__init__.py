"""Offsets to latents: what they do to x and arithmetic on them, fitting (frozen, joint, held out), choices, files.

Imports from the ground, `survey`, `score`, `model` and `sae`.
"""
