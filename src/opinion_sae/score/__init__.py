"""How close answers are to people's: measures, bootstrap over questions and seeds, tables, tests of claims, intervals
of predicted shares (`coverage.py`); and what each method is called (`names.py`).

Knows surveys and arrays of log p; no model. Imports from the ground and `survey`.
"""
