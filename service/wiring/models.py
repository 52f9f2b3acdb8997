"""Which language models these settings reach."""

from service.configuration.file import Configuration
from service.models.catalog import Catalog
from service.models.providers import Access
from service.settings import Settings


def open_catalog(settings: Settings, configuration: Configuration) -> Catalog:
    """The models that these settings reach.

    Raises:
        BadRequest: a key cannot be sent.
    """
    return Catalog(
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
