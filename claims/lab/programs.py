"""programs.py: which worker asks and starts the program of a claim's command."""
from . import answerer, asker, warm

WORKERS = {"train": warm, "serve": answerer, "generate": asker}
