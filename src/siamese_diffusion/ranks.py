"""Several processes of one run stop after the same step, where any of them is asked to.

Design note: signals reach processes at different steps, and one that stopped alone would leave the others waiting for
its gradients for good. So each says after each step whether it was asked, and what all have said is looked at a step
later, over the network of the processors: neither they nor their devices wait for it. A process alone looks at once.
"""

from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from siamese_diffusion.interrupt import Request


class Agreement:
    """Whether a run stops; each method is called by all of its processes, after the same step.

    Args:
        accelerator: knows the processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.several = accelerator.num_processes > 1
        self._group: Any = dist.new_group(backend="gloo") if self.several else None
        self._said: tuple[dist.Work, Tensor] | None = None

    def after_step(self, request: Request) -> bool:
        """Whether all stop after this step; a process that was not asked itself then counts as asked."""
        if not self.several:
            return bool(request)
        stop = self._heard()
        flag = torch.tensor([int(request.asked)])
        work = dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._said = work, flag
        request.asked = request.asked or stop
        return stop

    def after_all(self, request: Request) -> None:
        """After the last step: what was said after it counts too, so that all or none go on with what follows."""
        if self.several:
            request.asked = self._heard() or request.asked

    def _heard(self) -> bool:
        """What all said after the step before."""
        if self._said is None:
            return False
        work, flag = self._said
        self._said = None
        work.wait()
        return bool(flag)
