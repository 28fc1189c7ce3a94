"""The plain algorithm, as printed in the papers, without obsdiff's optimisations: the reference of
`benchmarks.speed` and the oracle of tests. Only the lists of layers and packages and the step
weights come from obsdiff."""
