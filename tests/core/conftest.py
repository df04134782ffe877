"""One thread for these tests: their matrices are tiny, and threads that wait for a busy core cost
twenty times what they save. Set before torch and numpy are imported, and for subprocesses too.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
