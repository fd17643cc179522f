"""programs.py: which worker asks and starts the program of a claim's command."""
from . import asker, server, trainer

WORKERS = {"train": trainer, "serve": server, "generate": asker}
