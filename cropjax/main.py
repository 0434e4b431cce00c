"""Trains and evaluates one network: `python -m cropjax.main --config configs/demo.py --workdir runs/demo`.

The same command resumes a run that was interrupted.
"""

from cropjax import commandline


def main():
    from cropjax.train import train

    commandline.run(train)


if __name__ == "__main__":
    main()
