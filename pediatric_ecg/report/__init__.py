"""The report of a run: one self-contained page for a cardiologist to read, a model card, and a table for the terminal."""
from .page import build_report
from .text import text_table

__all__ = ["build_report", "text_table"]
