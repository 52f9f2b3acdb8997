"""The OpenAPI document: what the framework knows of the routes, and what it cannot know.

    document    puts it together
    refusals    with which statuses an operation refuses
    payloads    bodies that are no shape
    links       which operation's answer has the ids that another one asks for

Shapes, summaries and examples stand with the routes and their shapes. `app` asks for the
document; routes declare with `refusals` and `payloads` what is their own.
"""
