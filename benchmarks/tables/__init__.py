"""The tables of measured figures in README.md, docs/measurements.md and docs/measured.md, made
from stored JSON.

tables/pages.py       START HERE: the pages, and the function of every table
tables/blocks.py      the marked blocks of a page, and how they are rewritten
tables/stored.py      reading benchmarks/results/
tables/markdown.py    grids, captions and cells
tables/results.py     README: the results
tables/demo.py        README: which pruning; measurements: the demo
tables/measured.py    measured: the runs that were sent in, checked against the schema
tables/quality.py     measurements: time to quality
tables/speed.py       measurements: what a pruning costs
tables/structured.py  measurements: quality, speed and solve time of structured pruning
"""
