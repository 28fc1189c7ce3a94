"""Report: any number of results.json in, one HTML page out; imports no torch.

report/page.py            START HERE: the page, from reading to writing
report/read_runs.py       a results.json, checked against schema.py
report/merge.py           comparable results into one comparison
report/sections.py        a comparison as the page shows it
report/verdict.py         how much the pictures of a run differ, in words
report/recommendation.py  which run to take, in one sentence
report/cards.py           the first screen: a card for each run
report/tradeoff.py        quality against bytes and time, with the frontier
report/plots.py           further plots; points.py has the runs' styles, canvas.py the SVG
report/tables.py          the page's tables
report/configuration.py   settings in which the runs of a comparison differ
report/pictures.py        pictures as data URLs
report/strip.py           the first pictures of all runs in one PNG, to share
report/render.py          all of it through template/: HTML, style sheet, scripts
report/noise.py           metrics, and the differences that are inside the noise
report/values.py          values that both kinds of tables show
report/text_table.py      the same results as tables in the terminal
"""
