"""The networks: `dit` (the denoiser), `vae21` (video ↔ latents), `umt5` (text → states)."""
