"""Advisors propose the next architecture of a search. A name is imported from its module when it is first used."""

import importlib
import typing

if typing.TYPE_CHECKING:
    from advisors.advisor_sampler import AdvisorSampler
    from advisors.base import Advisor, Observation, ObservationState
    from advisors.bayesian import BayesianAdvisor
    from advisors.errors import AdvisorError, SpaceExhaustedError
    from advisors.evolution import EvolutionAdvisor
    from advisors.function import FunctionAdvisor, SuggestFunction
    from advisors.grid import GridAdvisor
    from advisors.local_search import LocalSearchAdvisor
    from advisors.random_search import RandomAdvisor
    from advisors.registry import AdvisorSpec, advisor_names, as_advisor, create_advisor, registered_name
    from advisors.sampler import SamplerAdvisor, SamplerFactory, TPEAdvisor
else:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULES})


_MODULES = {
    "Advisor": "advisors.base",
    "AdvisorError": "advisors.errors",
    "AdvisorSampler": "advisors.advisor_sampler",
    "AdvisorSpec": "advisors.registry",
    "BayesianAdvisor": "advisors.bayesian",
    "EvolutionAdvisor": "advisors.evolution",
    "FunctionAdvisor": "advisors.function",
    "GridAdvisor": "advisors.grid",
    "LocalSearchAdvisor": "advisors.local_search",
    "Observation": "advisors.base",
    "ObservationState": "advisors.base",
    "RandomAdvisor": "advisors.random_search",
    "SamplerAdvisor": "advisors.sampler",
    "SamplerFactory": "advisors.sampler",
    "SpaceExhaustedError": "advisors.errors",
    "SuggestFunction": "advisors.function",
    "TPEAdvisor": "advisors.sampler",
    "advisor_names": "advisors.registry",
    "as_advisor": "advisors.registry",
    "create_advisor": "advisors.registry",
    "registered_name": "advisors.registry",
}

__all__ = [
    "Advisor",
    "AdvisorError",
    "AdvisorSampler",
    "AdvisorSpec",
    "BayesianAdvisor",
    "EvolutionAdvisor",
    "FunctionAdvisor",
    "GridAdvisor",
    "LocalSearchAdvisor",
    "Observation",
    "ObservationState",
    "RandomAdvisor",
    "SamplerAdvisor",
    "SamplerFactory",
    "SpaceExhaustedError",
    "SuggestFunction",
    "TPEAdvisor",
    "advisor_names",
    "as_advisor",
    "create_advisor",
    "registered_name",
]
