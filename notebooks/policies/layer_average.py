"""A layer is skipped where its input is, on the average over the positions, like that of the step before.

From the description of njzhx213/Diffusion_Skipping (`layer_cossim_avg_0.97`): the cosine of the layer's input to that
of the step before, averaged over the block; above the threshold attention and MLP add what they added before. Never in
the first step of a block. `adaptive` differs twice: it compares with the input that the layer was last computed from,
so that many small changes in a row add up, and returns the layer's old output. What is skipped here reads no weights.
"""

from fastdllm.decode.policies import AdaptivePolicy


class Policy(AdaptivePolicy):
    threshold = 0.97      # average cosine from which on a layer is skipped: the lowest of the five that are described

    def __init__(self, reuse, revision, layers, slots, block):
        super().__init__(reuse.model_copy(update={"similarity": self.threshold}), revision, layers, slots, block)

    def keep(self, index, forwards, hidden, output):
        super().keep(index, forwards, hidden, output - hidden)

    def run(self, index, hidden, forwards, plan, original):
        output, decisions = super().run(index, hidden, forwards, plan, original)
        for row, (forward, decision) in enumerate(zip(forwards, decisions, strict=True)):
            if decision == "reuse":
                output[row] += hidden[row]
                start = self.start(self.store.sources[index, forward.slot], forward)
                self.inputs.patch(index, forward, start, tuple(range(forward.width)), hidden[row])
        return output, decisions
