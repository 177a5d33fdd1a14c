"""Fine-tunes all weights of the experts of Wan2.2-I2V-A14B, or with `--run` of one of them.

    python -m wan_jax data build --src clips --units first --out data --model wan22_i2v_a14b --area 832x480
    python -m wan_jax train --config configs/train_wan22_i2v.py --run i2v_low data=data out=runs
    python -m wan_jax generate --model runs/models/wan22_i2v_a14b --image cat.jpg --prompt "…"

The dataset holds with each clip what fills the other 20 of 36 channels: the mask and the latents of its first frame,
with grey after it.  With `--units all` a third of the clips show their last frame too, and both tasks are learned; for
that one alone there is train_wan22_flf2v.py.  An expert that is not trained is copied from the released model.
"""

from dataclasses import replace

from configs import train_wan22_t2v_finetune, wan22_i2v_a14b
from wan_jax.train.config import TrainConfig


def get_config() -> tuple[TrainConfig, ...]:
    model = wan22_i2v_a14b.get_config()
    return tuple(
        replace(run, name=run.name.replace("finetune", "i2v"), model=model, base=model.name, init=model.name)
        for run in train_wan22_t2v_finetune.get_config()
    )
