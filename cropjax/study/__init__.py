"""A controlled experiment: a grid of configs, each trained with several seeds and tested in several ways, and a report.

    python -m cropjax.study --config configs/studies/demo.py

A study file is a config file whose `get_config()` fills in `plan.new_study()`. What it says becomes a `Plan` (plan.py);
every run of it is an ordinary run folder (work.py), of which the report needs one small file (results.py): a study goes
on wherever these files are.
"""
