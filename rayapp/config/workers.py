"""What Ray gives the workers of a stage."""

from pydantic import Field

from rayapp.config.load import Config


class WorkersConfig(Config):
    """What Ray gives each worker."""

    num_workers: int = Field(default=1, ge=1)
    use_gpu: bool = False
    """True asks for one GPU a worker; backend and device follow from the worker's own context."""
    cpus_per_worker: float = Field(default=1, gt=0)
    accelerator_type: str | None = None
    """For example H100. None takes any."""

    @property
    def each_needs(self) -> dict[str, float]:
        """What one worker reserves, by Ray's names of resources."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": 1} if self.use_gpu else {})

    @property
    def num_threads(self) -> int:
        """Of one worker that computes on CPUs."""
        return max(1, int(self.cpus_per_worker))
