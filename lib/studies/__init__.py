"""What the notebooks show: one function for each of their tables and figures, a module for each system."""
