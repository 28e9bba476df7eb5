"""mailagent answers mailed datasets and questions with computed figures, charts and tables."""

__version__ = "0.1.0"
