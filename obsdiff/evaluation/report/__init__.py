"""Report: any number of results.json in, one HTML page out; imports no torch.

report/page.py           START HERE: the page, from reading to writing
report/schema.py         the schema of results.json, and its check
report/merge.py          comparable results into one comparison
report/configuration.py  settings in which the runs of a comparison differ
report/tables.py         the page's tables
report/plots.py          the page's plots; points.py has the runs' styles, canvas.py the SVG
report/pictures.py       pictures as data URLs
report/noise.py          metrics, and the differences that are inside the noise
report/values.py         values that both kinds of tables show
report/text_table.py     the same results as tables in the terminal
"""
