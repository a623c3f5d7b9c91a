"""The steps that a model's policy adds to its requests, one a file: each takes a request, asks the next, and answers.

What is to be decided is pure and lives in `msrt.dispatch` (cache, cascade, mirror, overflow); here it is performed.
"""
