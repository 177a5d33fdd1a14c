"""What explains the model: flow matching in the plane, and the trace of a run through both experts.

`plane` trains and samples, `measures` says how straight and how close, `comparison` puts numbers to a question and
words to the numbers; `experts` tells who does which step, `trace` watches them; `figures` draws all of it.
"""
