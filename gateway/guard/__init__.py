"""The guard of one worker: judges what all workers see of new, and takes it out when it is worse than it may be.

`evaluator` is the loop; `merging` adds up what workers report; `floor` needs neither Redis nor other workers.
"""
