"""Describe one classifier process of a service: the models of one engine group, on one GPU if GPUs are listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engines.bundle import Bundle
from streamclf.config.views import MODEL_KEY
from streamclf.events.device_status import DeviceStatus
from streamclf.runtime.jobs import ClassifierLoad, ClassifierReady, ClassifierReport, ModelReport
from streamclf.supervisor.child import Child
from streamclf.supervisor.engine_groups import CLASSIFIER, ModelGroup
from streamclf.supervisor.placement import Place


@dataclass(slots=True, kw_only=True)
class EngineProcess:
    """One classifier process in its present state."""

    child: Child
    row: int
    """Its row of the liveness table."""
    group: ModelGroup
    """The models that it has to serve."""
    group_name: str
    """Name of the engine group: that of the process, without its GPU."""
    device: int | None = None
    """Number of its GPU; None for the default."""
    feeds: int = 0
    """Number of feeds for which it has to have room."""
    capacity: int = 0
    """Largest number of feeds of the present run."""
    serving: dict[str, Bundle] = field(default_factory=dict)
    """The models that the present run serves or opens."""
    opening: set[str] = field(default_factory=set)
    """The models that were added to the present run, and about which it has not reported yet."""
    engine: str = ""
    """The description of its engine, from its last report that it was ready."""
    is_ready: bool = False
    is_on_trial: bool = False
    """Whether it must show that it can serve a new configuration. If it cannot, the service returns to the old one."""
    is_removed: bool = False
    """Whether it has been asked to stop because no model needs it any more."""
    is_expected: bool = True
    """Whether it was started on purpose, and has neither been ready nor failed since."""
    ready_s: float = 0.0
    """When it was ready (monotonic)."""
    lost: str = ""
    """Why its last run ended by itself; empty once it is ready again."""
    load: ClassifierLoad | None = None
    """The last report about its load."""

    @property
    def name(self) -> str:
        """The name of the process."""
        return self.child.name

    @property
    def title(self) -> str:
        """The process with the names of its models, for a sentence."""
        models = "" if self.group_name == CLASSIFIER else f" of {names_of(self.group.bundles)}"
        return f"the classifier{models}" + ("" if self.device is None else f" on GPU {self.device}")

    @property
    def place(self) -> Place:
        """The process as streams are dealt to it."""
        return Place(name=self.name, group=self.group_name, device=self.device, capacity=self.capacity)

    @property
    def was_ever_ready(self) -> bool:
        """Whether it has reported that it was ready, in this run or an earlier one."""
        return bool(self.engine)

    @property
    def is_parked(self) -> bool:
        """Whether it ended so often, or in such a way, that its next start is minutes away."""
        return self.child.times_parked > 0 and not self.child.running


def failures(report: ClassifierReady | ClassifierReport) -> dict[str, str]:
    """Return the models that cannot be opened by a report, each with the reason."""
    match report:
        case ClassifierReady():
            return report.failed
        case ModelReport() if report.error is not None:
            return {report.model: report.error}
    return {}


def describe_device(processes: Sequence[EngineProcess], views: Mapping[str, int]) -> DeviceStatus:
    """Return the state of the GPU of `processes`; `views` counts the views of each process."""
    lost = next((each.lost for each in processes if each.lost), None)
    load = [each.load.busy for each in processes if each.load]
    return DeviceStatus(
        state="lost" if lost else "serving" if all(each.is_ready for each in processes) else "starting",
        reason=lost,
        views=sum(views.get(each.name, 0) for each in processes),
        load=round(sum(load), 2) if load else None,
    )


def names_of(bundles: Mapping[str, Bundle]) -> str:
    """Return the names of models for a sentence."""
    return ", ".join(name or MODEL_KEY for name in bundles)
