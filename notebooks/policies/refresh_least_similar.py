"""Between full recomputes a quarter of the positions is refreshed: those least similar to when they were last computed.

After dLLM-Cache (arXiv 2506.06295): every k-th step computes all (its refresh of the response), the steps between only
the share that is least similar, the others keep the attention's and MLP's old outputs. dLLM-Cache compares the value
vectors; a policy here sees a layer's input, which they are a projection of, and compares that. The prompt needs no
refresh of its own: Fast-dLLM v2 reads it causally.
"""

from topk_tokens import Policy as TopkTokens


class Policy(TopkTokens):
    share = 0.25
    against_last_step = False
