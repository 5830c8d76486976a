"""What a method changes besides the answers (facts, plain text, other letters), and what a latent stands for.

Imports from everything before it, `methods` included.
"""
