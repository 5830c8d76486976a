"""Offsets to latents: what they do to x, fitting (frozen or joint), held out, chosen, cut to few latents.

`offsets` are the same for every question, `reading` ones depend on it. A reading one starts from a read-out's axes:
`directions` says where to write, `fit_reading` puts it together and can train it through the model.

Imports from the ground, `survey`, `score`, `model` and `sae`.
"""
