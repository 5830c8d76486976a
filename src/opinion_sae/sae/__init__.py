"""The sparse autoencoder: what it computes, its file formats, its training, what it costs the model.

Imports from the ground and `model`.
"""
