"""The statements of the study that this project repeats, each beside what the instruments find.

    python -m cropjax.instruments.claims docs/claims.md

The study, "Why crop size significantly impacts CNN-based segmentation vs transformers", is an unpublished report of
2026 with ten numbered sections; statements of the first seven are given here in our words. Nothing that is compared is
typed: what the study states is, what is found is computed from the networks as they are built, or measured on images of
drawn streets.
"""
