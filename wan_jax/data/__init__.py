"""Training data: `build` turns a folder of captioned videos into a dataset, and `loader` reads it in a fixed order."""
