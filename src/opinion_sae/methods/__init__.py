"""What Δ is held against: one file per rival or control, each giving held-out answers by name.

Those that only read the question and never steer the model stand on `features` (words, latents, dense vectors,
`sentences`), `place` (how a group's answers lean along the options) and `kernel_ridge` (the one from the other).

`reading` fits offsets that read the question from those, with their controls.

Imports from everything before it: the ground, `survey`, `score`, `model`, `sae`, `delta`.
"""
