"""Everything that knows profiles, chapters and pages: runs, the figures, sentences and tables of the book, its build.

Last in the order of rooms: may import from all others, and none imports from it.
"""
