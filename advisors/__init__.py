"""Advisors propose the next architecture of a search. A name is imported from its module when it is first used."""

from search_spaces.lazy_names import lazy_names as _lazy_names

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

__all__ = list(_MODULES)

__getattr__, __dir__ = _lazy_names(__name__, _MODULES)
