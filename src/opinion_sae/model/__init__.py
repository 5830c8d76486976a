"""The language model: weights, its layers one by one, prompts, answers from the hook layer up, texts, activations.

`AnswerPath` runs every prompt once; from then on an answer costs one token through the upper layers.
Imports from the ground, `survey` and `score`.
"""
