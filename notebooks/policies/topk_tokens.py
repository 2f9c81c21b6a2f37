"""Only the half of the positions that changed most is computed; the others keep what the layer added to them before.

From the description of njzhx213/Diffusion_Skipping (`token_topk_50`): by position, the cosine of the layer's input to
that of the step before; the least similar are computed, the others get the attention's and MLP's old outputs, which
their input is added to. Never in the first step of a block. (Its policy for whole layers is `layer_average.py`.) A
computed position sees the old keys of the others. A layer that computes some positions reads all its weights: nothing
is saved at batch 1.
"""

import torch
import torch.nn.functional as F

from fastdllm.decode.policies import OutputPolicy, ReusePlan
from fastdllm.decode.store import Store, serves


class Policy(OutputPolicy):
    share = 0.5                   # of the positions that are computed
    against_last_step = True      # compare with the input of the step before; else with that last computed from

    def __init__(self, reuse, revision, layers, slots, block):
        super().__init__(reuse, revision, layers, slots, block)
        self.inputs = Store(slots, block, in_place=reuse.full_forwards)

    def forget(self, slot):
        super().forget(slot)
        self.inputs.forget(slot)

    def keep(self, index, forwards, hidden, output):
        self.store.put(index, forwards, output - hidden)
        self.inputs.put(index, forwards, hidden)

    def run(self, index, hidden, forwards, plan, original):
        ready = all(serves(self.store.source(index, forward.slot), forward) for forward in forwards)
        if plan.decision == "reuse" and not ready:
            plan = ReusePlan("recompute", "slice out of range")
        if plan.decision != "reuse":
            return super().run(index, hidden, forwards, plan, original)
        starts = self.starts(index, forwards)
        before, added = self.inputs.get(index, forwards, starts), self.store.get(index, forwards, starts).clone()
        similar = F.cosine_similarity(hidden.float(), before.float(), dim=-1)
        columns = similar.topk(max(1, round(self.share * hidden.shape[1])), largest=False).indices.sort().values
        wide = columns[:, :, None].expand(-1, -1, hidden.shape[-1])
        fresh = original.part(hidden, list(range(len(forwards))), columns)
        added.scatter_(1, wide, fresh - hidden.gather(1, wide))
        seen = hidden if self.against_last_step else torch.scatter(before, 1, wide, hidden.gather(1, wide))
        for row, forward in enumerate(forwards):
            every = tuple(range(forward.width))
            self.store.patch(index, forward, starts[row], every, added[row])
            self.inputs.patch(index, forward, starts[row], every, seen[row])
        return hidden + added, ("reuse",) * len(forwards)
