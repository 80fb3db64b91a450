"""The small library behind the notebooks: a common ground and three wings (diffusion, mixture, language)."""
