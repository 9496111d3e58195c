"""The fast sampler, a small compiler: a network is traced, scheduled, planned, and executed one wavefront per step.

    trace -> passes -> analysis -> planner -> executors -> runtime -> sampler

``ir``                       the intermediate representation: nodes, edges, operations
``trace``, ``symbolic``      the network's ``forward`` -> nodes; ``op_registry`` holds the operations that are known
``passes``                   rewrites of the nodes that save work at each step
``analysis``, ``causality``  nodes -> the step at which each feature is ready; proof of causality; receptive fields
``planner``                  ready steps -> feature groups, their ``wavefronts``, gathers, and the ``layout`` of caches
``caches``, ``executors``    a plan for one batch: memory, and a function per feature group, with
                             ``recurrence_executor`` and ``attention_executor`` for two of the operations
``runtime``, ``sampler``     the loop over steps; batches of images
"""
