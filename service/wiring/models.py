"""Which language models these settings reach."""

from service.configuration.file import Configuration
from service.errors import BadRequest
from service.models.catalog import Catalog, UnknownModel, UnpricedModel
from service.models.providers import Access, MissingApiKey
from service.settings import Settings


def open_catalog(settings: Settings, configuration: Configuration) -> Catalog:
    """The models that these settings reach. What the configuration names leads to models, or this says where not.

    Raises:
        BadRequest: a key cannot be sent; a fallback or a profile names a model that there is not, or that has no price.
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
    for mention in configuration.mentions:
        try:
            catalog.resolve(mention.model)
        except (UnknownModel, UnpricedModel) as exc:
            raise BadRequest(f"{mention.place}: {exc}") from exc
        except MissingApiKey:
            continue  # only who uses it needs the key
    return catalog
