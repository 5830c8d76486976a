"""What Δ is held against: one file per rival or control, each giving held-out answers by name.

Imports from everything before it: the ground, `survey`, `score`, `model`, `sae`, `delta`.
"""
