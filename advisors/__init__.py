"""Advisors: each proposes the next architecture of a search."""

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
