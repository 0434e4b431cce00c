"""Published networks -> cropjax -> published networks: every weight must come back with the same bits.

    .venv/bin/python third_party/round_trip.py mmsegmentation=ENVIRONMENT transformers=ENVIRONMENT

Upstream writes a file, `cropjax.convert` reads it into a config's network and writes it again, and upstream loads that
strictly. Runs in cropjax's environment; each argument names a folder beside this file and its virtual environment.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent

# (kit, its network, our config, fields): what a stranger would type.
ROUTES = [
    ("mmsegmentation", "full_pspnet", "pspnet_512", []),
    ("mmsegmentation", "full_deeplabv3plus", "deeplab_512", []),
    ("mmsegmentation", "full_segformer_b0", "segformer_b0_512", []),
    ("mmsegmentation", "full_segformer_b3", "segformer_b3_512", []),
    ("mmsegmentation", "full_segnext_t", "segnext_t_512", []),
    ("mmsegmentation", "full_segnext_b", "segnext_b_512", []),
    ("transformers", "b0", "segformer_b0_512", ["model.head.style=huggingface", "model.backbone.norm_eps=1e-5"]),
]


def main(environments: dict[str, str]) -> int:
    status = 0
    for kit, network, config, fields in ROUTES:
        with tempfile.TemporaryDirectory() as folder:
            upstream = [f"{environments[kit]}/bin/python", "-W", "ignore", HERE / kit / "round_trip.py"]
            out = pathlib.Path(folder, "out.safetensors")
            published = pathlib.Path(folder, "model.safetensors" if kit == "transformers" else "published.pth")
            subprocess.run([*upstream, "write", network, folder if kit == "transformers" else published], check=True)
            ours = [sys.executable, "-m", "cropjax.convert", f"--config=configs/{config}.py", f"--weights={published}"]
            ours += [f"--out={out}", *(f"--config.{field}" for field in fields)]
            subprocess.run(ours, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            quiet = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
            status |= subprocess.run([*upstream, "check", network, out], check=False, env=quiet).returncode
    return status


if __name__ == "__main__":
    sys.exit(main(dict(argument.split("=", 1) for argument in sys.argv[1:])))
