"""HARRISON as in the thesis that the reference system comes from: 10 epochs of transfer learning, 10 of fine tuning.

Command:  socialtag train experiments/harrison.py --dataset data/harrison/1.0.0 --workdir runs/harrison
Hardware: one GPU, or a TPU host
Rate:     not measured yet (the thesis: about 3.5 images/s on a laptop's 4 cores, 72 hours in all)
Expect:   not measured yet (the thesis: test F1 0.07, kept after epoch 17)
"""

from socialtag_jax.config import Experiment, Stage

experiment = Experiment(
    name="harrison",
    stages=(Stage(epochs=10, freeze_layers=19), Stage(epochs=10, freeze_layers=16)),
)
