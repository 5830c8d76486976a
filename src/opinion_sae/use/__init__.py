"""Put offsets and latents to use: predictions for questions of one's own, text, labels, files for other programs.

Imports from everything before it.
"""
