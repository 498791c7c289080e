"""How good a model is: what it answers and how likely it finds answers, as numbers with their uncertainty.

`items` are what is asked; `asking` gets answers of a model or a server, `likelihood` the probabilities of given ones;
`answers` keeps both. `metrics` (`texts`) makes numbers of them, `statistics` says how sure these are and whether two
models differ, `results` writes them down. `harness` and `scope` hand a model to lm-eval and EvalScope.
"""
