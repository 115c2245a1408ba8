"""For all tests: one thread. The models are so small that a second one costs more than it gives, most of all on a busy
machine; and the results of tests then depend on no core count."""

import torch

torch.set_num_threads(1)
