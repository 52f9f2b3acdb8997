"""Which language models these settings reach."""

from service.configuration.file import Configuration
from service.errors import BadRequest
from service.models.catalog import Catalog, UnknownModel, UnpricedModel
from service.models.providers import Access, MissingApiKey
from service.settings import Settings


def open_catalog(settings: Settings, configuration: Configuration) -> Catalog:
    """The models that these settings reach. What is named there leads to models, or this says where not.

    Raises:
        BadRequest: a key cannot be sent; a fallback, a profile or a setting names a model that there is not, or that
            has no price.
        PriceMapUnreadable: the installation lacks the price map.
    """
    catalog = Catalog(
        access=Access(
            openai_base_url=settings.openai_base_url,
            openai_api_key=settings.openai_api_key,
            anthropic_base_url=settings.anthropic_base_url,
            anthropic_api_key=settings.anthropic_api_key,
            variables=settings.environment,
        ),
        entries=configuration.models,
        entries_path=configuration.path,
        concurrency=settings.model_concurrency,
    )
    given = {"RLM_ROOT_MODEL": settings.root_model, "RLM_SUB_MODEL": settings.sub_model}
    named = [(place, model) for place, model in given.items() if model is not None]
    named += [(mention.place, mention.model) for mention in configuration.mentions]
    for place, model in named:
        try:
            catalog.resolve(model)
        except (UnknownModel, UnpricedModel) as exc:
            raise BadRequest(f"{place}: {exc}") from exc
        except MissingApiKey:
            continue  # only who uses it needs the key
    return catalog
