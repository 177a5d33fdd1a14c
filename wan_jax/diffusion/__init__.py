"""Flow matching: its convention (`flow`), time grids (`schedules`), solvers, guidance and the sampling loop."""
