"""A real training run in ten minutes: coloured shapes that move, from clips to a measured model.

benchmarks/shapes/recipe.py holds the commands, in their order.
"""
