"""The mixture: the announced sparse-attention denoiser, its rebuilt successor and their training."""
