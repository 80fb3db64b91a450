"""Images: a pixel graph, diffusion on it, an EM patch prior, four heads that mix filters, and a token loop."""
