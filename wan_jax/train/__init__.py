"""Training: `config` says what a run is, `objective` what is learned, `step` how, and `loop` carries it through."""
