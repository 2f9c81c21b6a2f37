"""A stand-in for a user's old generation_functions.py, written for the tests from the design's description.

It speaks the published interface (`self.forward`, `self.model.layers`, `self.sample_with_top_p`, a past with
`key_cache` and `value_cache`), runs rows in lockstep and patches the layers of a named subset. SWITCHES holds
the historical faults; all off is the behaviour of revision 26d6179.
"""

import torch

SWITCHES = {"run_skipped": False, "full_block_every_k": False, "first_subset": "1-12", "trim_caches": True,
            "on_full_block": "refresh", "cache_source": "latest"}


def subset(name, count):
    if name == "first":
        return list(range(1, 13 if SWITCHES["first_subset"] == "1-12" else 12))
    start = (count - 12) // 2 if name == "middle" else count - 12
    return list(range(start, start + 12))


class Patches:
    """Wrappers around the chosen layers; undone by `undo`."""

    def __init__(self, layers, indices, k):
        self.k, self.step, self.full, self.on = k, 0, False, True
        self.layers = [layers[i] for i in indices]
        self.stored = {}
        for layer in self.layers:
            layer.forward = self.wrap(layer, layer.forward)

    def wrap(self, layer, original):
        def forward(hidden, *args, **kwargs):
            refresh = self.full and SWITCHES["on_full_block"] == "refresh"
            if not self.on or (self.full and SWITCHES["on_full_block"] == "bypass"):
                return original(hidden, *args, **kwargs)
            if refresh or self.step % self.k == 0:
                output = original(hidden, *args, **kwargs)
                if self.full or SWITCHES["cache_source"] == "latest":
                    self.stored[layer] = output[0]
                return output
            cached = self.stored.get(layer)
            if cached is not None and cached.shape[1] != hidden.shape[1]:
                at = kwargs.get("replace_position") or 0
                cached = cached[:, at:at + hidden.shape[1]] if at + hidden.shape[1] <= cached.shape[1] else None
            if cached is None:
                return original(hidden, *args, **kwargs)
            if SWITCHES["run_skipped"]:
                original(hidden, *args, **kwargs)
            return (cached,)
        return forward

    def trim(self, keep):
        if SWITCHES["trim_caches"]:
            self.stored = {layer: output[keep] for layer, output in self.stored.items()}

    def undo(self):
        for layer in self.layers:
            del layer.forward


class StandInForCausalLM:
    @torch.no_grad()
    def batch_sample(self, input_ids, tokenizer, block_size, max_new_tokens, small_block_size, min_len, seq_len,
                     mask_id=151665, threshold=0.95, stop_token=151645, use_block_cache=False, top_p=0.95,
                     temperature=0, reuse_k=1, layer_subset=None):
        patches = None
        if reuse_k > 1:
            patches = Patches(self.model.layers, subset(layer_subset, len(self.model.layers)), reuse_k)
        try:
            return decode(self, patches, input_ids, tokenizer, block_size, max_new_tokens, small_block_size, min_len,
                          seq_len, mask_id, threshold, stop_token, use_block_cache, top_p, temperature, reuse_k)
        finally:
            if patches:
                patches.undo()


def decode(self, patches, input_ids, tokenizer, size, max_new_tokens, small, min_len, seq_len, mask_id, threshold,
           stop, use_block_cache, top_p, temperature, k):
    blocks = max_new_tokens // size + int(seq_len.max()) // size
    rows = torch.arange(len(input_ids), device=self.device)
    x = torch.full((len(input_ids), (blocks + 1) * size + 1), mask_id, device=self.device)
    x[:, :input_ids.shape[1]] = input_ids
    lengths, longest, results, past = seq_len.clone(), int(seq_len.max()), {}, None
    finished = torch.zeros(len(x), dtype=torch.bool, device=self.device)

    def forward(tokens, full, on=True, step=0, **options):
        if patches:
            patches.full, patches.on, patches.step = full, on, step
        return self.forward(input_ids=tokens, use_cache=True, past_key_values=past, **options)

    if min_len > size:
        end = min_len // size * size
        output = forward(x[:, :end], True, on=False, update_past_key_values=True, block_size=size)
        past = output.past_key_values
        if min_len == end:
            opens = lengths == end
            x[opens, end] = output.logits[opens, -1].argmax(-1)
    for block in range(min_len // size, blocks):
        begin, end = block * size, (block + 1) * size
        block_past, step = None, 0
        for first in range(begin, end, small):
            last = first + small
            while (x[:, first:last] == mask_id).any():
                masked = x[:, first:last] == mask_id
                every_k = SWITCHES["full_block_every_k"] and (k <= 1 or step % k == 0)
                if not use_block_cache:
                    logits = forward(x[:, begin:end], True, step=step, update_past_key_values=False).logits
                elif block_past is None or every_k or (x[:, first] == mask_id).any():
                    output = forward(x[:, begin:end], True, step=step, update_past_key_values=False,
                                     use_block_cache=True)
                    logits, block_past = output.logits, output.block_past_key_values
                else:
                    logits = forward(x[:, first:last], False, step=step, update_past_key_values=False,
                                     use_block_cache=True, block_past_key_values=block_past,
                                     replace_position=first - begin).logits
                logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
                if logits.shape[1] != small:
                    logits = logits[:, first - begin:last - begin]
                token, probability = self.sample_with_top_p(logits, top_p=top_p, temperature=temperature)
                confidence = probability.gather(-1, token[..., None])[..., 0].masked_fill(~masked, -torch.inf)
                reveal = confidence > threshold
                reveal[torch.arange(len(x)), confidence.argmax(-1)] = True
                reveal &= masked
                x[:, first:last][reveal] = token[reveal]
                finished |= ((token == stop) & reveal).any(1)
                step += 1
        if not finished.all():
            output = forward(x[:, begin:end], True, on=False, update_past_key_values=True, block_size=size)
            past = output.past_key_values
            carries = (lengths // size <= block) | (longest <= end)
            x[carries, end] = output.logits[carries, -1].argmax(-1)
        for row in finished.nonzero().flatten().tolist():
            results[int(rows[row])] = x[row, :end]
        keep = ~finished
        x, rows, lengths, finished = x[keep], rows[keep], lengths[keep], finished[keep]
        if not len(x):
            break
        for layer in range(len(past)):
            past.key_cache[layer] = past.key_cache[layer][keep]
            past.value_cache[layer] = past.value_cache[layer][keep]
        if patches:
            patches.trim(keep)
    for row in range(len(x)):
        results[int(rows[row])] = x[row, :blocks * size + 1]
    return results
