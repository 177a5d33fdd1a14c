"""Both experts of Wan2.2-T2V-A14B, one after the other, into one folder that `WanPipeline.from_pretrained` opens.

    python -m wan_jax train --config configs/train_wan22_t2v.py data=data out=runs low.steps=30000
    python -m wan_jax generate --model runs/models/wan22_t2v_a14b --prompt "Two cats box on a lit stage"

The experts share nothing while they train, so two slices may have one each: `--run high` and `--run low`.
"""

from configs import train_wan22_t2v_high, train_wan22_t2v_low
from wan_jax.train.config import TrainConfig


def get_config() -> tuple[TrainConfig, ...]:
    return train_wan22_t2v_high.get_config(), train_wan22_t2v_low.get_config()
