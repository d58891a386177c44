"""The five steps of scaling, by DeepServe's names (arXiv 2501.14417): what the start of an executor takes.

A process is made; it becomes an executor of nothing; weights or code come; a first step is made; routing knows of it.
"""

from __future__ import annotations

SCALER_PRE, PRE_LOAD, LOAD, POST_LOAD, SCALER_POST = SCALING_STEPS = (
    "Scaler-Pre", "TE-Pre-Load", "TE-Load", "TE-Post-Load", "Scaler-Post",
)  # fmt: skip
