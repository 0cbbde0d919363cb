"""Evaluation and ablation harness: benchmarks, checkers, statistics, records, tables and figures."""

__version__ = "0.1.0"
