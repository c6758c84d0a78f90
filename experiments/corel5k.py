"""Corel5K in full: 224 px, the head with augmentation, then block5_conv2 and block5_conv3 as well.

Command:  socialtag train experiments/corel5k.py --dataset data/corel5k/1.0.0 --workdir runs/corel5k
Hardware: one GPU, or a TPU host; on two CPU cores it takes most of a day (about 5 images/s)
Rate:     not measured yet
Expect:   not measured yet; the head alone on cached 224 px features reaches a test F1 of 0.47 after 10 epochs
"""

from socialtag_jax.config import Checkpoints, Experiment, Stage

experiment = Experiment(
    name="corel5k",
    stages=(
        Stage(epochs=20, freeze_layers=19, learning_rate=1e-3),
        Stage(epochs=10, freeze_layers=16, learning_rate=1e-4),
    ),
    checkpoints=Checkpoints(patience=5),
)
