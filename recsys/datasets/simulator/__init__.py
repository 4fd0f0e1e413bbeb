"""A shop that drifts: latent tastes, position-biased impressions, delayed clicks, and the truth kept aside."""
