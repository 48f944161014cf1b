"""Watching a model at work, as functions of numbers: histograms and their shift, cumulative sums, figures of a site.

Import the modules: who reads a reference needs no NumPy.
"""
