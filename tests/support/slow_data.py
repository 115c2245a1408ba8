"""A search by two workers whose data are read slowly, as a program: python slow_data.py SEARCH_DIR."""

from __future__ import annotations

import sys
import time

from torch.utils.data import DataLoader, Dataset
from toy_search import make_config, make_loader, make_search


class Slow(Dataset):
    """The samples of the toy search, one in 10 ms."""

    def __init__(self):
        self.samples = make_loader().dataset

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        time.sleep(0.01)
        return self.samples[index]


if __name__ == "__main__":
    config = make_config(max_trials=4)
    config |= {"regular_distillation": {"train_steps": 2000}, "checkpoint_steps": 10**6}
    make_search(sys.argv[1], config, train_dataloader=DataLoader(Slow(), 8, shuffle=True)).search_loop(workers=2)
