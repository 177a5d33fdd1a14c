"""The Explorer: a web page where a model can be tried, and watched while it works."""
