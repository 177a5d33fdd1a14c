"""Distances as people see them, from pretrained networks: LPIPS of images and FVD of videos."""
