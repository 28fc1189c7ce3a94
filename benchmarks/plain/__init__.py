"""The plain algorithm, as the papers print it, with none of obsdiff's short cuts: the yardstick of
`benchmarks.speed` and the oracle of tests. Only which layers there are, in which packages, and the
step weights are taken from obsdiff."""
