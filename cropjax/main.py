"""Trains and evaluates one network: `python -m cropjax.main --config configs/demo.py --workdir runs/demo`.

The same command resumes a run that was interrupted.
"""

from cropjax import commandline


def main(config, workdir):
    from cropjax.train import train  # slow: a wrong flag should not wait for it

    train(config, workdir)


if __name__ == "__main__":
    commandline.run(main, joins=True)
