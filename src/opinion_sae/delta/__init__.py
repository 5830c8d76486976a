"""Offsets to latents: what they do to x and arithmetic on them, fitting (frozen, joint, held out), choices, files.

`offsets` are the same for every question, `reading` ones depend on it. A reading one starts from a read-out's axes:
`directions` says where to write, `fit_reading` puts it together and can train it through the model.

Imports from the ground, `survey`, `score`, `model` and `sae`.
"""
