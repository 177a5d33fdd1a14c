"""What explains the model: flow matching in the plane, and the trace of a run through both experts.

`plane` has the data and the ways to them, `learning` trains and samples, `measures` says how straight and how close,
`comparison` puts them against each other and `finding` says in words what came out; `experts` tells who does which
step, `trace` watches them; `figures`, which alone needs matplotlib, draws all of it.
"""
