"""The language model: causal attention from basic TensorFlow operations, a fair LSTM and an n-gram yardstick.

TensorFlow reads these two settings when it is first imported; they keep its start-up lines out of notebooks
and choose kernels whose sums do not depend on oneDNN's scheduling.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
