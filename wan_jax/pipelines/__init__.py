"""From a request to frames: `WanPipeline` (wan.py), its settings (request.py) and its weights (loading.py)."""
