"""The webhooks and deliveries of a request's tenant. They concern the whole tenant, so they are not handed down."""

from typing import Annotated

from fastapi import Depends, Request

from service.web.callers import caller_of, rooms_of
from service.webhooks.deliveries import Deliveries
from service.webhooks.webhooks import Webhooks


def _webhooks_of(request: Request) -> Webhooks:
    caller = caller_of(request)
    caller.require_whole_tenant()
    return rooms_of(request).webhooks.webhooks_of(caller.tenant.id)


def _deliveries_of(request: Request) -> Deliveries:
    caller = caller_of(request)
    caller.require_whole_tenant()
    return rooms_of(request).webhooks.deliveries_of(caller.tenant.id)


WebhooksOfCaller = Annotated[Webhooks, Depends(_webhooks_of)]
DeliveriesOfCaller = Annotated[Deliveries, Depends(_deliveries_of)]
