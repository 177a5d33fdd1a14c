"""Real clips and photographs under free licences, out of published packages, cut for training a small autoencoder."""
