"""What passes between the inference thread and the learner thread.

Owns the pages of rows that acting leaves and learning reads, and the slot with the newest weights.
Both threads call it; each class says which method is whose. It gives out `Rows` and `Unroll`,
which are all that an algorithm sees of it. `UnrollStore` (unrolls.py) is its front.
"""
