"""Reads mmsegmentation's own Cityscapes and SegNeXt configs: which become ours, and what of them is not mapped.

    python tests/show/mmseg_configs.py FOLDER

FOLDER is the `configs` of its repository, or `mmseg/.mim/configs` of its wheel. Those of which we ship a copy must
give that copy. Source of the figures in docs/mmsegmentation.md.
"""

import runpy
import sys
import tempfile
from pathlib import Path

from cropjax.errors import UserError
from cropjax.mmseg.mapping import map_config
from cropjax.mmseg.reading import read_config
from cropjax.mmseg.theirs import shown
from cropjax.mmseg.writing import write_config

CONFIGS = Path(__file__).parents[2] / "configs"
SAME = {
    "pspnet_r50-d8_4xb2-80k_cityscapes-512x1024": "pspnet_512x1024",
    "deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024": "deeplab_512x1024",
    "segformer_mit-b3_8xb1-160k_cityscapes-1024x1024": "segformer_b3_1024",
}
BATCH = {  # the study's batch is 2
    "pspnet_r50-d8_4xb2-80k_cityscapes-769x769": "pspnet_769",
    "deeplabv3plus_r50-d8_4xb2-80k_cityscapes-769x769": "deeplab_769",
}


def load(path):
    return runpy.run_path(str(path))["get_config"]()


def main(folder):
    files = [*folder.glob("*/*cityscapes*.py"), *folder.glob("segnext/*.py")]
    files = [
        file
        for file in files
        if any(name in file.stem for name in ("pspnet", "deeplabv3plus", "segformer_", "segnext"))
    ]
    whole = converted = 0
    for path in sorted(files):
        try:
            mapped = map_config(read_config(path), path)
            with tempfile.TemporaryDirectory() as place:
                write_config(mapped, path, out := Path(place, "mine.py"))
                assert load(out) == mapped.config
        except UserError as error:
            print(f"{path.name}: no: {error}")
            continue
        converted += 1
        whole += not mapped.left
        print(f"{path.name}: {len(mapped.left)} not mapped")
        for name, value, why in mapped.left:
            print(f"    {name} = {shown(value)}: {why}")
        if path.stem in SAME:
            assert mapped.config == load(CONFIGS / f"{SAME[path.stem]}.py")
        if path.stem in BATCH:
            ours = load(CONFIGS / f"{BATCH[path.stem]}.py")
            ours.train.batch_size = 8
            assert mapped.config == ours
    print(f"{len(files)} configs: {converted} converted, {whole} of them with nothing left over")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
