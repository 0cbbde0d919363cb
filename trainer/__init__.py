"""Reference trainer for on-policy distillation: objectives as values, a loop that yields records."""

import os

# MKL picks kernels by the alignment of a buffer, which changes from process to process: a resumed run would differ from
# an uninterrupted one in the last bits. STRICT ties the results to the numbers alone. Read when torch first multiplies.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
