"""How the processes of a run find each other: the cluster environments of Lightning Fabric."""

from __future__ import annotations

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from pixelloom.engine.launch import Launch


class _Alone(LightningEnvironment):
    """The environment of a process that starts the others of its machine, whatever LOCAL_RANK says."""

    def __init__(self, node_rank: int) -> None:
        super().__init__()
        self._node_rank = node_rank

    @property
    def creates_processes_externally(self) -> bool:
        """False: this process starts the others."""
        return False

    def local_rank(self) -> int:
        """The first of its machine."""
        return 0

    def node_rank(self) -> int:
        """Index of the machine."""
        return self._node_rank


def environment(started: Launch, devices: int) -> ClusterEnvironment:
    """The environment of torchrun, of srun, or of processes that the first one starts."""
    if started.by == "torchrun":
        return TorchElasticEnvironment()
    if started.by == "srun":
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment() if started.by == "parent" else _Alone(started.rank // devices)
