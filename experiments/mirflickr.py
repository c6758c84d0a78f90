"""MIRFLICKR-1M as in the thesis that the reference system comes from: 2 epochs of transfer learning, 5 of fine tuning.

Prepare:  socialtag prepare --source mirflickr --input MIRFLICKR --output data --pruning mirflickr
Command:  socialtag train experiments/mirflickr.py --dataset data/mirflickr/1.0.0 --workdir runs/mirflickr
Hardware: one GPU, or a TPU host
Rate:     not measured yet (the thesis: about 21.8 images/s on a Quadro P4000, 65 hours in all)
Expect:   not measured yet (the thesis: test F1 0.11)
"""

from socialtag_jax.config import Experiment, Stage

experiment = Experiment(
    name="mirflickr",
    stages=(Stage(epochs=2, freeze_layers=19), Stage(epochs=5, freeze_layers=16)),
)
