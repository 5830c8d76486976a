"""Put offsets to use: predictions for questions of one's own, text written under them, files for other programs.

Imports from the ground, `survey`, `score`, `model`, `sae` and `delta`.
"""
