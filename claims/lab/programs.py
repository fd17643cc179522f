"""programs.py: which worker asks and starts the program of a claim's command."""
from . import asker, server, warm

WORKERS = {"train": warm, "serve": server, "generate": asker}
