"""The mathematics of AMA: networks, latent samplers, losses, scores. Needs torch only."""
