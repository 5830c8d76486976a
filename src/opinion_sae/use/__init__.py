"""Put offsets to use: text written under them, files for other programs.

Imports from the ground, `model`, `sae` and `delta`.
"""
