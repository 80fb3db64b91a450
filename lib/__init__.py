"""The small library behind the notebooks: common, the three systems (diffusion, mixture, language), studies and tools."""

import os

# Waiting OpenMP threads sleep instead of spinning: on a busy two-core machine a training step with spinning threads
# was measured at 3.3 s, with sleeping ones at 0.4 s. Read by the runtime when torch is imported, so it stands here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
