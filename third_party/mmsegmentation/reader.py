"""mmsegmentation's input pipeline on files that it is told, for `cropjax.benchmark --suites input --against torch`."""

import itertools
import time

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from upstream import register_all_modules

LOADING = ({"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"})


class Files(torch.utils.data.Dataset):
    """The training examples of (image, label) paths through the published Cityscapes pipeline; labels are train ids."""

    def __init__(self, pairs, scale, ratio_range, crop_size, cat_max_ratio, flip, photometric):
        self.pairs = pairs
        changes = [
            {"type": "RandomResize", "scale": tuple(scale), "ratio_range": tuple(ratio_range), "keep_ratio": True},
            {"type": "RandomCrop", "crop_size": tuple(crop_size), "cat_max_ratio": cat_max_ratio},
            {"type": "RandomFlip", "prob": flip},
            *([{"type": "PhotoMetricDistortion"}] if photometric else []),
            {"type": "PackSegInputs"},
        ]
        self.load, self.change = Compose(LOADING), Compose(changes)

    def loaded(self, index):
        image, label = self.pairs[index]
        info = {"img_path": image, "seg_map_path": label, "label_map": None, "reduce_zero_label": False}
        return self.load(info | {"seg_fields": []})

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.change(self.loaded(index))


class Shuffled(torch.utils.data.Sampler):
    """Epoch after epoch without end, as mmengine's InfiniteSampler."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        rng = np.random.default_rng(0)
        return iter(int(i) for _ in itertools.count() for i in rng.permutation(self.count))


class Reader:
    """Batches as fast as they come, with as many workers as there are cores, or none on a single one."""

    def __init__(self, pairs, batch_size, cores, **augmentation):
        register_all_modules(init_default_scope=True)
        self.files = Files(pairs, **augmentation)
        workers = cores if cores > 1 else 0
        self.batches = iter(
            torch.utils.data.DataLoader(
                self.files,
                batch_size=batch_size,
                sampler=Shuffled(len(pairs)),
                num_workers=workers,
                collate_fn=pseudo_collate,
                worker_init_fn=_one_thread,
                persistent_workers=bool(workers),
            )
        )
        self.batch_size, self.ahead = batch_size, 2 * workers
        _one_thread(0)

    def ready(self):
        """How much of an example's time is loading and decoding its two files, of 16 in a row."""
        loading = whole = 0.0
        for i in range(16):
            began = time.perf_counter()
            loaded = self.files.loaded(i % len(self.files))
            loading += time.perf_counter() - began
            self.files.change(loaded)
            whole += time.perf_counter() - began
        return {"ready": True, "decoding_share": loading / whole}

    def read(self, images):
        """Those that were made ahead do not count, and the next ones are not made while the other side is timed."""
        for _ in range(self.ahead):
            next(self.batches)
        began, count = time.perf_counter(), -(-images // self.batch_size)
        for _ in range(count):
            next(self.batches)
        seconds = time.perf_counter() - began
        time.sleep(seconds / count * self.ahead)
        return {"seconds": seconds}


def _one_thread(_):
    """As mmengine sets a worker up."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
