"""OpenAI's responses: asked at once or in the background, shown, continued, streamed from any place, cancelled.

shapes    what comes in and goes out
showing   a response as it stands, from its record and its run
events    its stream, whose numbers stand for places
routes    the routes
"""
