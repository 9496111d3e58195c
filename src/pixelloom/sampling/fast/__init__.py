"""The fast sampler, a small compiler: a network is traced, scheduled, planned, and executed one wavefront per step.

    trace -> passes -> analysis -> planner -> executors, runtime -> sampler

==========================  ==========================================================================================
``ir``                      the intermediate representation: nodes, edges, operations
``trace``, ``symbolic``     the network's ``forward`` -> nodes; ``op_registry`` holds the operations that are known
``passes``                  rewrites of the nodes that save work at each step
``analysis``                nodes -> the step at which each feature is ready; the proof of causality; receptive fields
``planner``                 ready steps -> feature groups, wavefronts, gathers, and the layout and lifetime of caches
``caches``, ``executors``   a plan for one batch: memory, and a function per feature group
``runtime``, ``sampler``    the loop over steps; batches of images
==========================  ==========================================================================================
"""
