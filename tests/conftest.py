"""For all tests: one thread, and Python's own reaction to SIGINT.

The models are so small that a second thread costs more than it gives, most of all on a busy machine; and the results of
tests then depend on no core count. A shell that starts a job in the background has it ignore SIGINT.
"""

import signal

import torch

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
